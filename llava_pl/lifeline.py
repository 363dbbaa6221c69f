"""Processes that end with the one that started them: a killed parent tells nobody.

Without this a worker or a rank that waits for its parent would wait forever, and keep its memory.
"""

from __future__ import annotations

import os
import threading
import time

PARENT_VARIABLE = "LLAVA_PL_PARENT"


def end_with(parent: int) -> None:
    """Watch a process from a thread, and end this one, whatever it is doing, when that one is its parent no longer."""
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def end_with_launcher() -> None:
    """Watch the process of the first rank where it started this one as another rank; otherwise become such a one."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    elif os.environ.get(PARENT_VARIABLE) == str(os.getppid()):  # not one that a shell or torchrun started
        end_with(os.getppid())


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
