"""Shards of pictures and what belongs to them: tar files as img2dataset and `webdataset` write them.

In: a tar file. Out: its samples in order. Pictures are not read, only where they lie: a shard is gone through once, and
each picture can be read later, alone.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava_pl.types import InputError

PICTURE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})


@dataclass(slots=True)
class ShardSample:
    """Files that follow each other in a shard and share their name.

    Args:
        name: That name, with the folders in front of it and without ending.
        picture: Ending, first byte in the shard and length of the picture; None without one.
        text: Content of NAME.txt.
        fields: Content of NAME.json.
        fault: What is wrong with these two; "" if nothing is.
    """

    name: str
    picture: tuple[str, int, int] | None = None
    text: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
    fault: str = ""


def find_shards(path: Path) -> list[Path]:
    """Return the shards that a path stands for, in order: itself, or those of a folder; none if it has none."""
    if path.is_dir():
        return sorted(each for each in path.iterdir() if each.suffix.lower() == ".tar")
    return [path] * (path.suffix.lower() == ".tar")


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Yield the samples of a shard; of two pictures in one sample, the second begins another.

    Raises:
        InputError: It cannot be read, is compressed, cut off or no tar file.
    """
    try:
        with tarfile.open(path, "r:") as archive:  # no compressed one: within it no picture could be found again
            sample = ShardSample("")
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # which grows by every file
                name, ending = _cut_name(member.name)
                if not member.isfile() or name is None:
                    continue
                if sample.name and (sample.name != name or (sample.picture and ending in PICTURE_ENDINGS)):
                    yield sample
                    sample = ShardSample(name)
                sample.name = name
                _add(sample, ending, archive, member)
            if sample.name:
                yield sample
            _check_end(path, archive.offset)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except tarfile.TarError as error:
        raise InputError(f"{path}: expected a whole tar file without compression, found another ({error})") from error


def _cut_name(path: str) -> tuple[str | None, str]:
    """Return the name and the ending of a file in a shard; no name for notes of macOS.

    A name ends at its first dot, as `webdataset` cuts it, or before an ending that is known.

    >>> _cut_name("./a/0001.jpg"), _cut_name("photo.v1.PNG"), _cut_name("0001.seg.npy"), _cut_name("a/._0001.txt")
    (('a/0001', 'jpg'), ('photo.v1', 'png'), ('0001', 'seg.npy'), (None, ''))
    """
    folder, _, file_name = posixpath.normpath(path).rpartition("/")
    if file_name.startswith("._"):
        return None, ""
    stem, _, ending = file_name.rpartition(".")
    if ending.lower() not in (*PICTURE_ENDINGS, "txt", "json"):
        stem, _, ending = file_name.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def _add(sample: ShardSample, ending: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if ending in PICTURE_ENDINGS:
        sample.picture = (ending, member.offset_data, member.size)
    if ending not in ("txt", "json"):
        return
    file = archive.extractfile(member)
    assert file is not None, "only files get here"
    try:
        text = file.read().decode("utf-8-sig")
        if ending == "txt":
            sample.text = text
        elif isinstance(fields := json.loads(text), dict):
            sample.fields = fields
    except (ValueError, RecursionError) as error:  # no UTF-8, or no JSON
        sample.fault = f"{member.name} cannot be read ({error})"


def _check_end(path: Path, offset: int) -> None:
    """Check that a shard ends as tar files do: one that was cut off between two files is read without complaint."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError(f"{path}: expected a whole tar file without compression, found one that is cut off")
