"""What a check found, as a table on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_pl.app.data.check import CheckReport, list_places
from llava_pl.visible import visible

NUM_EXAMPLES = 3
NUM_PLACES = 8


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
