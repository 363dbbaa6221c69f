"""A report in the terminal: its notes and tables."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from llava_pl.evaluation.report import Report, ReportTable
from llava_pl.visible import visible

MAX_WIDTH = 10_000


def print_report(report: Report, console: Console | None = None) -> None:
    """Print a report.

    Args:
        report: What to print.
        console: Where to; by default the standard output.
    """
    console = console or Console()
    if not console.is_terminal:  # a file or a pipe: nothing needs to be folded
        unbound = console.options.update(max_width=MAX_WIDTH)
        widths = [Measurement.get(console, unbound, _table(table)).maximum for table in report.tables]
        console.width = max([console.width, *widths])
    console.print(f"[bold]{_cell(report.title)}[/bold]", highlight=False)
    for table in report.tables:
        console.print(f"\n{_cell(table.title)}", highlight=False)
        if table.rows:
            console.print(_table(table), highlight=False)
    for note in report.notes:
        console.print(f"[yellow]{_cell(note)}[/yellow]", highlight=False)


def _table(table: ReportTable) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, column in enumerate(table.columns):
        is_number = table.is_number(place)
        shown.add_column(_cell(column), justify="right" if is_number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(_cell, row))
    return shown


def _cell(text: str) -> str:
    return escape(visible(text))
