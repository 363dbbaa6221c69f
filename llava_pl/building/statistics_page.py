"""What files of records hold, side by side: as rows of text, and as a page with drawings.

In: a `Statistics` for each file. Out: rows, or HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llava_pl.building.statistics import Lengths, Statistics
from llava_pl.curves.figure import COLOURS, as_svg
from llava_pl.html_page import page, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_WORDS = 20
STYLE = "svg { max-width: 100%; height: auto; } figure { vertical-align: top; } figure table { width: auto; }"
LENGTHS = {
    "questions": "questions of a record",
    "question_words": "words of a question",
    "answer_words": "words of an answer",
}


def as_rows(statistics: Mapping[str, Statistics]) -> list[tuple[str, ...]]:
    """Return a row for each number: what it is, and its value for each file."""
    each = list(statistics.values())
    rows: list[tuple[str, ...]] = [
        ("records", *(f"{one.num_records:,}" for one in each)),
        ("without a picture", *(f"{one.num_without_picture:,}" for one in each)),
        ("pictures", *(f"{len(one.pictures):,}" for one in each)),
        ("most records of a picture", *(f"{max(one.pictures.values(), default=0):,}" for one in each)),
    ]
    for name, title in LENGTHS.items():
        rows.append((f"{title}: least, 5 %, half, 95 %, most", *(_quantiles(getattr(one, name)) for one in each)))
    return rows


def statistics_page(statistics: Mapping[str, Statistics]) -> str:
    """Return the page."""
    body = _table(["", *statistics], as_rows(statistics))
    body += f"<figure>{as_svg(draw_lengths(statistics))}</figure>\n"
    for name, one in statistics.items():
        body += f"<h2>{show(name)}</h2>\n"
        for title, of, counts in (
            ("word of answers", "records", one.concepts),
            ("questions begin", "questions", one.openings),
            ("folder of pictures", "records", one.folders),
        ):
            rows = [(word, f"{number:,}") for word, number in counts.most_common(NUM_WORDS)]
            body += f"<figure>{_table([title, of], rows)}</figure>\n"
    return page("Records", body, STYLE)


def draw_lengths(statistics: Mapping[str, Statistics]) -> Figure:
    """Return the share of each length in each file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axis, (field, title) in zip(figure.subplots(1, len(LENGTHS)), LENGTHS.items(), strict=True):
        for number, (name, one) in enumerate(statistics.items()):
            lengths: Lengths = getattr(one, field)
            if lengths.counts:
                counts, edges = lengths.histogram()
                axis.stairs(counts / counts.sum(), edges, label=name, color=COLOURS[number % len(COLOURS)])
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    if len(statistics) > 1:
        axis.legend(fontsize=8)
    return figure


def _quantiles(lengths: Lengths) -> str:
    return ", ".join(f"{value:,}" for value in lengths.quantiles().values())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{show(name)}</th>' for name in heads)
    body = "".join(
        f"<tr><td>{show(first)}</td>{''.join(f'<td class=number>{show(cell)}</td>' for cell in cells)}</tr>\n"
        for first, *cells in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
