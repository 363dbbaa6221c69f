"""Checkpoints to and from disk: a file is there whole or not at all, and a changed one is noticed.

In: what the trainer wants kept. Out: a file under its final name, and its checksum (see `checksum.py`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import shutil
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from llava_pl.export.numpy_values import numpy_is_taken, settle
from llava_pl.export.shards import is_sharded, read_shards
from llava_pl.training.checksum import checksum_path, find_damage, temporary_path, write_checksum
from llava_pl.types import InputError


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name, hands it to the disk, then renames it.

    Unlike Lightning's own, which first makes a second copy of the checkpoint in memory, writes it through the folder
    for temporary files, and returns while the operating system still holds it.

    Args:
        is_unsafe: Let a checkpoint that is read run what code it holds; only ever because the user has said so.
    """

    def __init__(self, *, is_unsafe: bool = False) -> None:
        self._is_unsafe = is_unsafe

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write a checkpoint and its checksum.

        Raises:
            InputError: The disk is full or refuses; what was there before is untouched.
        """
        if "://" in str(path):  # an object store has no renaming, and its uploads are whole or not at all
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        temporary = temporary_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb", buffering=0) as file:
                hashing = _HashingFile(file)
                torch.save(checkpoint, cast("IO[bytes]", hashing))
                os.fsync(file.fileno())
            # An older checksum under this name would condemn the new file if the process died between the two.
            checksum_path(path).unlink(missing_ok=True)
            if path.is_dir():  # an older one, by ranks that divided the model
                shutil.rmtree(path)
            temporary.replace(path)
            write_checksum(
                path,
                sha256=hashing.digest.hexdigest(),
                num_bytes=hashing.num_bytes,
                step=checkpoint.get("global_step"),
            )
            with suppress(FileNotFoundError):  # the last of several files: the folder may have got its name by now
                sync_folder(path.parent)
        except (OSError, RuntimeError) as error:
            # Leaving torch's archive after an error raises another one about its own books.
            cause = error if isinstance(error, OSError) else error.__context__
            with suppress(OSError):  # where nothing can be written, nothing can be deleted
                temporary.unlink()
            if not isinstance(cause, OSError):
                raise cause or error from None
            raise cannot_write(path, cause) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Read a checkpoint after checking its bytes, and run nothing that it may hold unless the user has said so.

        Raises:
            InputError: They are not those that were written, or they ask for code to be run.
        """
        if "://" not in str(path) and (damage := find_damage(Path(path))):
            raise InputError(f"ckpt_path: {path}: damaged, {damage}; use an older checkpoint")
        kwargs["weights_only"] = not self._is_unsafe
        try:
            with numpy_is_taken():
                if "://" in str(path):
                    content = super().load_checkpoint(path, *args, **kwargs)
                else:
                    # Mapped: ranks that share a host, and need a part each, share its memory.
                    read = partial(torch.load, map_location="cpu", mmap=True, weights_only=not self._is_unsafe)
                    content = read_shards(Path(path), read) if is_sharded(Path(path)) else read(path)
            return cast("dict[str, Any]", settle(content))
        except (OSError, InputError):
            raise
        except pickle.UnpicklingError as error:
            raise InputError(
                f"ckpt_path: {path}: refused: expected tensors, plain values and NumPy's numbers and text, but it "
                "holds other objects, perhaps of a callback of yours; --unsafe reads it all the same, and runs what "
                "code it brings along"
            ) from error
        except Exception as error:  # on damaged files torch raises anything from EOFError to KeyError
            found = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise InputError(f"ckpt_path: {path}: cannot be read ({found}); use an older checkpoint") from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint and its checksum."""
        super().remove_checkpoint(path)
        if "://" not in str(path):
            checksum_path(Path(path)).unlink(missing_ok=True)


def cannot_write(path: Path, cause: OSError) -> InputError:
    """Return the error of a checkpoint that the disk has no room for, or refuses."""
    remedy = "make room" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "see that it can be written"
    # A shard lies in a folder of its own among them.
    has_older = any(chain(path.parent.glob("*.ckpt"), path.parent.parent.glob("*.ckpt")))
    older = "older checkpoints are as they were, " if has_older else ""
    then = "resume with --ckpt_path last" if has_older else "start again"
    return InputError(f"checkpoint: {path}: cannot be written: {cause.strerror}; {older}{remedy} and {then}")


class _HashingFile:
    """A file for ``torch.save`` that hashes what passes through, so that nothing has to be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: memoryview) -> int:
        rest = memoryview(data).cast("B")
        while rest:  # an unbuffered file may take less than it is given
            rest = rest[self._file.write(rest) :]
        self.digest.update(data)
        self.num_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def sync_folder(folder: Path) -> None:
    """Hand the names in a folder to the disk: a rename is otherwise lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
