"""Progress of long work on the error stream, with the time that is left; nothing where that is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

T = TypeVar("T")

SECONDS_PER_REFRESH = 0.1


def show_progress(parts: Iterable[T], what: str, *, total: int | None = None, is_shown: bool = True) -> Iterator[T]:
    """Yield parts, and show how many are done and how long the others will take; the bar goes when they are.

    Args:
        parts: What is gone through.
        what: What is done with them, in front of the bar.
        total: How many there are, if they do not know it themselves.
        is_shown: Whether this process shows anything.
    """
    console = Console(stderr=True)
    is_hidden = not (is_shown and console.is_terminal)
    yield from track(parts, what, total, console=console, transient=True, disable=is_hidden)


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Show a bar that stays, and yield what moves it on, by as many as it is told.

    It is drawn by whoever moves it on: a drawing thread could hold a lock at the moment when workers are forked.

    Args:
        total: Where it ends.
        what: What is done, in front of the bar.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as progress:
        task, drawn = progress.add_task(what, total=total), 0.0

        def advance(count: int) -> None:
            nonlocal drawn
            progress.update(task, advance=count)
            if time.perf_counter() - drawn > SECONDS_PER_REFRESH:
                progress.refresh()
                drawn = time.perf_counter()

        yield advance
        progress.refresh()
