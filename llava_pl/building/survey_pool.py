"""A thread or processes that make the parts of a survey, and give them up when they are told to.

In: how many. Out: a pool of `concurrent.futures`. What fails in the block, or a key in the terminal, ends the parts
that are being made at the next caption; those that are whole stay.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event as ProcessEvent
from typing import TypeVar

from llava_pl.lifeline import end_with
from llava_pl.types import InputError

T = TypeVar("T")

_stop: threading.Event | ProcessEvent = threading.Event()
"""Of this process: set where parts are to be given up."""


@contextmanager
def open_pool(num_processes: int) -> Iterator[Executor]:
    """Yield a pool; one process alone is this one.

    Raises:
        InputError: The system has ended a process.
    """
    pool, stop = _start(num_processes)
    with pool:
        try:
            yield pool
        except (BrokenProcessPool, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # a file's; a pool that breaks has none
                raise
            raise InputError(
                "--workers: a process was ended by the system, most often for lack of memory; the same command goes "
                "on, with fewer of them"
            ) from error
        finally:
            stop.set()  # where all went well, nobody looks at it any more
            pool.shutdown(wait=True, cancel_futures=True)
            _begin(threading.Event())


def until_stopped(items: Iterable[T]) -> Iterator[T]:
    """Yield items as long as the pool is wanted.

    Raises:
        CancelledError: It is not.
    """
    for item in items:
        if _stop.is_set():
            raise CancelledError
        yield item


def _start(num_processes: int) -> tuple[Executor, threading.Event | ProcessEvent]:
    if num_processes == 1:
        of_thread = threading.Event()
        return ThreadPoolExecutor(1, initializer=_begin, initargs=(of_thread,)), of_thread
    context = get_context("spawn")  # not forked: this process may have threads
    stop = context.Event()
    return ProcessPoolExecutor(num_processes, context, initializer=_begin, initargs=(stop, os.getpid())), stop


def _begin(stop: threading.Event | ProcessEvent, parent: int | None = None) -> None:
    """Make a thread or a process ready.

    A process leaves a key in the terminal to its parent: a pool of which one ends by itself may wait forever. It ends
    with a parent that was killed.
    """
    global _stop
    _stop = stop
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with(parent)
