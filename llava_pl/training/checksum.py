"""What a checkpoint file must be, written down beside it: ``step=10.ckpt`` has ``step=10.ckpt.json``.

In: a finished file. Out: one line that says how a file differs from what was written, or None.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from functools import lru_cache, partial
from pathlib import Path

from llava_pl.export.shards import find_shards
from llava_pl.progress import show_progress
from llava_pl.training.processes import is_first_process
from llava_pl.types import InputError

CHUNK_BYTES = 1 << 24


def checksum_path(path: Path) -> Path:
    """Return where the checksum of a checkpoint lies.

    >>> checksum_path(Path("checkpoints/step=10.ckpt")).name
    'step=10.ckpt.json'
    """
    return path.with_name(f"{path.name}.json")


def temporary_path(path: Path) -> Path:
    """Return the name that a file has while it is being written."""
    return path.with_name(f".{path.name}.tmp")


def write_checksum(path: Path, *, sha256: str, num_bytes: int, step: int | None) -> None:
    """Write the checksum of a checkpoint, whole or not at all."""
    target = checksum_path(path)
    with temporary_path(target).open("w") as file:
        json.dump({"sha256": sha256, "bytes": num_bytes, "step": step}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary_path(target).replace(target)


def find_damage(path: Path) -> str | None:
    """Return how a checkpoint file differs from what was written, None if it does not.

    Every byte is read, once in the life of a process. A checkpoint without a checksum, as other programs write them, is
    only asked for the end of its archive.
    """
    path = path.resolve()
    if path.is_dir():
        try:
            shards = find_shards(path)
        except InputError as error:
            return str(error)
        return next((damage for shard in shards if (damage := find_damage(shard))), None)
    status = path.stat()
    return _find_damage(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _find_damage(path: Path, num_bytes: int, _: int) -> str | None:
    if not zipfile.is_zipfile(path):
        return "found another or an incomplete file"
    try:
        expected = json.loads(checksum_path(path).read_text())
        expected = {"bytes": expected["bytes"], "sha256": expected["sha256"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return f"{checksum_path(path).name} beside it is damaged"
    if expected["bytes"] != num_bytes:
        return f"found {num_bytes:,} bytes, {expected['bytes']:,} were written"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        chunks, total = iter(partial(file.read, CHUNK_BYTES), b""), math.ceil(num_bytes / CHUNK_BYTES)
        for chunk in show_progress(chunks, f"checking {path.name}", total=total, is_shown=is_first_process()):
            digest.update(chunk)
    return None if digest.hexdigest() == expected["sha256"] else "its bytes are not those that were written"
