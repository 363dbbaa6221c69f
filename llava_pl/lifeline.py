"""Processes that end with the one that started them: a killed parent tells nobody.

Without this a worker or a rank that waits for its parent would wait forever, and keep its memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT_VARIABLE = "LLAVA_PL_PARENT"
PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Watch a process from a thread, and end this one, whatever it is doing, when that one is its parent no longer."""
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def end_with_launcher() -> None:
    """Watch the process of the first rank where it started this one as another rank; otherwise become such a one.

    Raises:
        SystemExit: The first rank is gone already.
    """
    parent = int(os.environ.get(PARENT_VARIABLE, 0))
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    elif parent and parent == os.getppid():  # not a rank that a shell or torchrun started
        end_with(parent)
        _end_with_by_kernel()
    elif parent and not _is_alive(parent):
        raise SystemExit(1)


def _end_with_by_kernel() -> None:
    """Have the kernel do the same, where it can: while torch connects the ranks, no other thread of Python runs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
