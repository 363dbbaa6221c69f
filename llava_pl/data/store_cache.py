"""Where stores lie, when they are valid, and how one is put there: built by one process, seen only when complete.

In: a source. Out: a `RecordStore`, opened from the cache or built.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from llava_pl.data.sources import Source
from llava_pl.data.store import STORE_VERSION, Manifest, RecordStore
from llava_pl.data.store_writer import write_records
from llava_pl.types import InputError

_STEM_BYTES = 200
"""Of a source's name in that of its store; with all that is added, file systems take 255."""


def default_cache_dir() -> Path:
    """Return ``$LLAVA_PL_CACHE``, or ``~/.cache/llava_pl`` without it."""
    return Path(os.environ.get("LLAVA_PL_CACHE") or "~/.cache/llava_pl").expanduser()


def open_store(source: Source | str | Path, cache_dir: str | Path | None = None) -> RecordStore:
    """Return the store of a source, built if the cache holds none of its content.

    A store is taken as it is while path, sizes and times of the source's files are those of its manifest; the source
    is not read then. If they differ, its content is hashed, and only other content is built anew. Several processes may
    ask at once: one builds, the others wait for it.

    Args:
        source: A source, or a path that `Source.of` understands.
        cache_dir: Folder of all stores; `default_cache_dir` by default.

    Raises:
        InputError: The source is missing or broken, changes meanwhile, or the cache cannot be written. A wrong record
            is no error here: it is listed in the store's ``bad``.
    """
    source = source if isinstance(source, Source) else Source.of(source)
    path = source.path.absolute()
    name = blake2b(os.fsencode(path) + source.variant.encode(), digest_size=8).hexdigest()
    stem = os.fsencode(path.stem)[:_STEM_BYTES].decode(errors="ignore")
    folder = Path(cache_dir or default_cache_dir()) / f"{stem}-{name}"
    try:
        if (store := _reopen(folder, source)) is not None:
            return store
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            # Another process may have built it while this one waited; what it wrote down is what the files are now.
            store = _reopen(folder, source, may_hash=False)
            return _build(folder, source) if store is None else store
    except OSError as error:
        if error.filename in map(str, source.files):
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the path") from error
        size = sum(file.stat().st_size for file in source.files) / 1e6
        raise InputError(
            f"{folder.parent}: cannot store the records of {source.path} ({error.strerror or error}); "
            + advise(error, f" for about {size:.0f} MB")
        ) from error


def advise(error: OSError, room: str = "") -> str:
    """Return the next step of a user whose cache cannot be written.

    Args:
        error: What the system said.
        room: How much is missing, where that is known.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"make room{room}, or set data.cache_dir or LLAVA_PL_CACHE to another folder"
    return "set data.cache_dir or LLAVA_PL_CACHE to a folder that you may write to"


def _stats(files: Sequence[Path]) -> list[list[Any]]:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _hash_files(files: Sequence[Path]) -> str:
    digest = sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(file_digest(opened, sha256).digest())
    return digest.hexdigest()


def _reopen(folder: Path, source: Source, *, may_hash: bool = True) -> RecordStore | None:
    manifest = Manifest.read(folder)
    if manifest is None or manifest.source != str(source.path.absolute()):
        return None
    stats = _stats(source.files)
    if manifest.files != stats:
        if not may_hash or manifest.content != _hash_files(source.files):
            return None
        with suppress(OSError):  # a cache that others may only read is hashed again each time
            replace(manifest, files=stats).write(folder)
    with suppress(InputError):  # a damaged store is no store
        return RecordStore(folder)
    return None


@contextmanager
def locked(folder: Path, *, is_kept: bool = False) -> Iterator[None]:
    """Hold the right to build a folder; the system takes it back from a process that is killed.

    Args:
        folder: What is built.
        is_kept: It is there and is added to, and holds its lock itself; otherwise it gets its place when it is whole.
    """
    with (folder / ".lock" if is_kept else folder.with_name(f".{folder.name}.lock")).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Console(stderr=True).print(f"waiting for another process that builds {folder}", highlight=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, source: Source) -> RecordStore:
    temporary = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)  # of a build that was killed: the lock says that nobody writes it
    try:
        temporary.mkdir()
        stats = _stats(source.files)
        with _progress(source.path, sum(size for _, size, _ in stats)) as advance, ThreadPoolExecutor(1) as pool:
            content = pool.submit(_hash_files, source.files)  # beside the parsing: hashing needs no interpreter
            num_records = write_records(source.read(advance), temporary, where=str(source.path))
        if stats != _stats(source.files):
            raise InputError(f"{source.path}: changed while it was read; start again when it is complete")
        Manifest(STORE_VERSION, str(source.path.absolute()), stats, content.result(), num_records).write(temporary)
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        if folder.exists():
            retired = folder.with_name(f".{folder.name}.retired")
            shutil.rmtree(retired, ignore_errors=True)
            folder.rename(retired)
            shutil.rmtree(retired, ignore_errors=True)
        temporary.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return RecordStore(folder)


def sync(path: Path) -> None:
    """Return when a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _progress(path: Path, num_bytes: int) -> Iterator[Callable[[float], None]]:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"reading {path.name}, once", total=num_bytes)
        yield lambda size: progress.advance(task, size)
