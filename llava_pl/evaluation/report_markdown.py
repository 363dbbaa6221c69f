"""A report as Markdown, for a repository, an issue or a notebook; pictures are left to the page."""

from __future__ import annotations

from llava_pl.evaluation.report import Report, ReportTable
from llava_pl.visible import visible


def report_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [f"# {_cell(report.title)}"]
    parts += ["\n".join(f"* {_cell(note)}" for note in report.notes)] if report.notes else []
    parts += [_table(table) for table in report.tables]
    return "\n\n".join(parts) + "\n"


def _table(table: ReportTable) -> str:
    head = f"## {_cell(table.title)}"
    if not table.rows:
        return head
    rule = "|" + "".join(" ---: |" if table.is_number(place) else " --- |" for place in range(len(table.columns)))
    return f"{head}\n\n" + "\n".join([_line(table.columns), rule, *map(_line, table.rows)])


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    r"""Return text as it stands in a cell.

    >>> print(_cell("a|b *c*"))
    a\|b \*c\*
    """
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]#~" else letter for letter in visible(text))
