"""The last step of a checkpoint in several files: its index, once every rank has written its own.

In: a folder into which ranks write. Out: the same with an index, which makes it a checkpoint.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

from llava_pl.export.shards import INDEX_FILE, shard_path
from llava_pl.training.checksum import checksum_path, temporary_path
from llava_pl.types import InputError

MOST_SECONDS = 1800

RANK_IS_LOST = threading.Event()
"""Set where a rank has ended: whatever it has not written will not come."""


def finish_folder(folder: Path, num_ranks: int, *, most_seconds: float = MOST_SECONDS) -> None:
    """Wait until the files of all ranks are whole, and write the index.

    What is looked at are files, so that a thread can wait while ranks go on training.

    Raises:
        InputError: A rank has ended or did not write its file in time, or the folder is not one that all ranks share.
    """
    end = time.monotonic() + most_seconds
    waiting = [shard_path(folder, rank) for rank in range(num_ranks)]
    while waiting := [path for path in waiting if not checksum_path(path).is_file()]:
        if time.monotonic() > end:
            raise InputError(
                f"checkpoint: {folder}: {waiting[0].name} was not written within {most_seconds:.0f} seconds; all "
                "devices must see the folder of the run under the same path"
            )
        if RANK_IS_LOST.wait(0.05):
            raise InputError(f"checkpoint: {folder}: {waiting[0].name} is not whole, and a rank has ended")
    index = folder / INDEX_FILE
    with temporary_path(index).open("w") as file:
        json.dump({"num_files": num_ranks}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary_path(index).replace(index)
