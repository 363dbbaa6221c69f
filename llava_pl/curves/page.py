"""Panels as a page that needs no network and no script: the drawing, and the numbers of its lines."""

from __future__ import annotations

from collections.abc import Sequence

from llava_pl.curves.figure import as_svg, make_figure
from llava_pl.curves.panels import MOST_RAW, Line, Panel, show_number
from llava_pl.html_page import page, show

STYLE = "svg { max-width: 100%; height: auto; }"


def curves_page(panels: Sequence[Panel], title: str, notes: Sequence[str] = ()) -> str:
    """Return a page.

    Args:
        panels: What it shows.
        title: Its heading.
        notes: Sentences that come first.
    """
    said = [*notes, *(f"{panel.title}: {note}" for panel in panels for note in panel.notes)]
    warnings = "".join(f'<p class="warning">{show(note)}</p>\n' for note in said)
    hint = (
        f"<p>Faint: each row of metrics.csv, of more than {MOST_RAW:,} the lowest and the highest of neighbours. "
        "Strong: the mean of rows around it.</p>"
    )
    return page(title, f"{warnings}{hint}\n<figure>{as_svg(make_figure(panels))}</figure>\n{_table(panels)}", STYLE)


def _table(panels: Sequence[Panel]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("curve", "unit", "first", "last", "lowest", "highest"))
    rows = "".join(_row(panel, line) for panel in panels for line in panel.lines)
    return f"<h2>Numbers</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"


def _row(panel: Panel, line: Line) -> str:
    cells = "".join(f'<td class="number">{show_number(value)}</td>' for value in line.extent)
    return f"<tr><td>{show(panel.title)}: {show(line.label)}</td><td>{show(panel.unit)}</td>{cells}</tr>\n"
