"""A check on the terminal: a bar while it runs, a table of what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from llava_pl.app.check import CheckReport, list_places
from llava_pl.visible import visible

NUM_EXAMPLES = 3
NUM_PLACES = 8
SECONDS_PER_REFRESH = 0.1


@contextmanager
def progress_bar(num_records: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on the error stream, if that is a terminal, and yield what moves it on by some records.

    It is drawn by this thread alone: a drawing thread could hold a lock at the moment when workers are forked.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as progress:
        task, drawn = progress.add_task("records", total=num_records), 0.0

        def advance(count: int) -> None:
            nonlocal drawn
            progress.update(task, advance=count)
            if time.perf_counter() - drawn > SECONDS_PER_REFRESH:
                progress.refresh()
                drawn = time.perf_counter()

        yield advance
        progress.refresh()


def print_report(report: CheckReport, console: Console | None = None) -> None:
    """Print what a check found: each reason with its count and places, then the first examples.

    Args:
        report: What to show.
        console: Where; the terminal by default.
    """
    console = console or Console()
    reasons = report.by_reason()
    if reasons:
        table = Table()
        table.add_column("reason", no_wrap=True)
        table.add_column("records", justify="right")
        table.add_column("first at")
        for reason, bad in reasons.items():
            table.add_row(reason, f"{len(bad):,}", Text(visible(list_places(bad, NUM_PLACES))))
        console.print(table, highlight=False)
    for reason, bad in reasons.items():
        console.print(Text(reason, style="bold"), highlight=False)
        for entry in bad[:NUM_EXAMPLES]:
            console.print(Text(f"  {visible(entry.place)}: {visible(entry.message)}"), highlight=False, soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"note: {visible(note)}"), highlight=False)
    console.print(Text(report.summary, style="bold red" if report.bad else "bold green"), highlight=False)
