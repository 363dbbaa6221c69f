"""Shards of pictures and what belongs to them: tar files as img2dataset and `webdataset` write them.

In: a tar file. Out: its samples in order. Pictures are not read, only where they lie: a shard is gone through once, and
each picture can be read later, alone.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava_pl.types import InputError

PICTURE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})


@dataclass(slots=True)
class ShardSample:
    """Files that follow each other in a shard and share their name up to its first dot.

    Args:
        name: That name, with the folders in front of it.
        picture: Ending, first byte in the shard and length of the picture; None without one.
        text: Content of NAME.txt.
        fields: Content of NAME.json.
    """

    name: str
    picture: tuple[str, int, int] | None = None
    text: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)


def find_shards(path: Path) -> list[Path]:
    """Return the shards that a path stands for, in order: itself, or those of a folder; none if it has none."""
    return sorted(path.glob("*.tar")) if path.is_dir() else [path] * (path.suffix == ".tar")


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Yield the samples of a shard.

    Raises:
        InputError: It cannot be read, is compressed or no tar file, or a sample's text or JSON is broken.
    """
    try:
        with tarfile.open(path, "r:") as archive:  # no compressed one: within it no picture could be found again
            sample = ShardSample("")
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # which grows by every file
                if not member.isfile():
                    continue
                folder, slash, file_name = member.name.rpartition("/")
                stem, _, ending = file_name.partition(".")
                name = f"{folder}{slash}{stem}"
                if sample.name not in ("", name):
                    yield sample
                    sample = ShardSample("")
                sample.name = name
                _add(sample, ending.lower(), archive, member, f"{path}: {member.name}")
            if sample.name:
                yield sample
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except tarfile.TarError as error:
        raise InputError(f"{path}: expected a whole tar file without compression, found another ({error})") from error


def _add(sample: ShardSample, ending: str, archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> None:
    if ending in PICTURE_ENDINGS:
        sample.picture = (ending, member.offset_data, member.size)
    if ending not in ("txt", "json"):
        return
    file = archive.extractfile(member)
    assert file is not None, "only files get here"
    try:
        text = file.read().decode()
        if ending == "txt":
            sample.text = text
        elif isinstance(fields := json.loads(text), dict):
            sample.fields = fields
    except ValueError as error:  # no UTF-8, or no JSON
        raise InputError(f"{where}: cannot be read ({error})") from error
