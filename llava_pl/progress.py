"""Progress of long work on the error stream, with the time that is left; nothing where that is no terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def show_progress(parts: Collection[T], what: str) -> Iterator[T]:
    """Yield parts, and show how many are done and how long the others will take; the bar goes when they are.

    Args:
        parts: What is gone through.
        what: What is done with them, in front of the bar.
    """
    console = Console(stderr=True)
    yield from track(parts, what, console=console, transient=True, disable=not console.is_terminal)
