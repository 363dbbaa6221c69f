"""Names of pictures to hashes of what their files hold, remembered by size and time of change.

In: an image folder, and names of files in it. Out: a `SeenPicture` for each file that is there. A file is read once;
from then on a look at its size and time is enough, until one of them changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa

from llava_pl.data.picture_files import find_picture
from llava_pl.progress import show_progress
from llava_pl.types import RecordError

DIGEST_BYTES = 16
_COLUMNS = ("name", "size", "mtime_ns", "digest")


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """A picture file as it was when it was read.

    Args:
        size: In bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        digest: Hash of its bytes.
    """

    size: int
    mtime_ns: int
    digest: bytes


def digest_pictures(
    folder: Path, names: Iterable[str], memory: Path, *, num_threads: int = 1
) -> dict[str, SeenPicture]:
    """Return what the files of some names hold; names without a file that can be read are left out.

    Args:
        folder: The image folder.
        names: Of files in it.
        memory: File that remembers, made and extended here; one that cannot be read is begun anew.
        num_threads: Files that are read at once.

    Raises:
        OSError: What was found out cannot be written down.
    """
    known = _read(memory)
    found: dict[str, SeenPicture] = {}
    unread: list[tuple[str, int, int]] = []
    for name in names:
        if (status := look(folder, name)) is None:
            continue
        seen = known.get(name)
        if seen is not None and (seen.size, seen.mtime_ns) == status:
            found[name] = seen
        else:
            unread.append((name, *status))
    if not unread:
        return found
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        digests = show_progress(
            pool.map(lambda entry: _digest(folder / entry[0]), unread),
            f"reading {len(unread):,} pictures, once",
            total=len(unread),
        )
        for (name, size, mtime_ns), digest in zip(unread, digests, strict=True):
            if digest is not None:
                found[name] = SeenPicture(size, mtime_ns, digest)
    _write(memory, known | found)
    return found


def look(folder: Path, name: str) -> tuple[int, int] | None:
    """Return size and time of change of a picture file; None without one inside the folder."""
    with suppress(OSError, ValueError, RecordError):
        status = find_picture(folder, name).stat()
        return status.st_size, status.st_mtime_ns
    return None


def _digest(path: Path) -> bytes | None:
    with suppress(OSError):
        return blake2b(path.read_bytes(), digest_size=DIGEST_BYTES).digest()
    return None


def _read(memory: Path) -> dict[str, SeenPicture]:
    try:
        with pa.ipc.open_file(memory) as reader:
            columns: Sequence[list[object]] = [column.to_pylist() for column in reader.read_all().select(_COLUMNS)]
    except (OSError, pa.ArrowException, KeyError):
        return {}
    return {name: SeenPicture(*seen) for name, *seen in zip(*columns, strict=True)}


def _write(memory: Path, pictures: dict[str, SeenPicture]) -> None:
    kinds = (pa.string(), pa.int64(), pa.int64(), pa.binary(DIGEST_BYTES))
    seen = pictures.values()
    columns = (list(pictures), [p.size for p in seen], [p.mtime_ns for p in seen], [p.digest for p in seen])
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    table = pa.table(arrays, names=_COLUMNS)
    memory.parent.mkdir(parents=True, exist_ok=True)
    temporary = memory.with_name(f".{memory.name}.{os.getpid()}")
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(memory)
