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
    is_text = [place == 0 or column == "text" for place, column in enumerate(table.columns)]
    rule = "|" + "".join(" --- |" if text else " ---: |" for text in is_text)
    lines = [_line(table.columns), rule, *map(_line, table.rows)]
    return f"## {_cell(table.title)}\n\n" + "\n".join(lines)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    r"""Return text as it stands in a cell.

    >>> print(_cell("a|b *c*"))
    a\|b \*c\*
    """
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]#~" else letter for letter in visible(text))
