"""The last step of a checkpoint in several files: its index and its name, once every rank has written its own.

In: a folder with a temporary name, into which ranks write. Out: the same as a checkpoint, in place of an older one.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

from llava_pl.export.shards import INDEX_FILE, shard_path
from llava_pl.training.checkpoint_io import cannot_write, sync_folder
from llava_pl.training.checksum import checksum_path, temporary_path
from llava_pl.types import InputError

MOST_SECONDS = 1800

RANK_IS_LOST = threading.Event()
"""Set where a rank has ended: whatever it has not written will not come."""


def finish_folder(folder: Path, num_ranks: int, *, most_seconds: float = MOST_SECONDS) -> None:
    """Wait until the files of all ranks are whole, write the index, and give the folder its name.

    What is looked at are files, so that a thread can wait while ranks go on training. An older checkpoint of this name,
    a folder or a file, stays as it was until then.

    Args:
        folder: The checkpoint; ranks write to `temporary_path` of it.
        num_ranks: How many write.
        most_seconds: How long to wait for them.

    Raises:
        InputError: A rank has ended or did not write its file in time, the folder is not one that all ranks share, or
            the disk refuses.
    """
    end = time.monotonic() + most_seconds
    temporary = temporary_path(folder)
    waiting = [shard_path(temporary, rank) for rank in range(num_ranks)]
    while waiting := [path for path in waiting if not checksum_path(path).is_file()]:
        if time.monotonic() > end:
            raise InputError(
                f"checkpoint: {folder}: {waiting[0].name} was not written within {most_seconds:.0f} seconds; all "
                "devices must see the folder of the run under the same path"
            )
        if RANK_IS_LOST.wait(0.05):
            raise InputError(f"checkpoint: {folder}: {waiting[0].name} is not whole, and a rank has ended")
    try:
        with (temporary / INDEX_FILE).open("w") as file:
            json.dump({"num_files": num_ranks}, file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(temporary)
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
            checksum_path(folder).unlink(missing_ok=True)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise cannot_write(folder, error) from error
