"""Progress of long work on the error stream, with the time that is left; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


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
