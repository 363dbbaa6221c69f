"""What files of records hold, side by side: as rows of tables, and as a page with drawings.

In: a `Statistics` for each file. Out: rows, or HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llava_pl.building.statistics import QUANTILES, Lengths, Statistics
from llava_pl.curves.figure import COLOURS, DASHES, as_svg
from llava_pl.html_page import page, show
from llava_pl.visible import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_WORDS = 20
STYLE = "svg { max-width: 100%; height: auto; } figure { vertical-align: top; } figure table { width: auto; }"
LENGTHS = {
    "questions": ("questions of a record", "records"),
    "question_words": ("words of a question", "questions"),
    "answer_words": ("words of an answer", "answers"),
}
"""Lengths of a `Statistics`: what is counted, in each of what."""

QUANTILE_HEADS = ("", "file", *QUANTILES)


def as_rows(statistics: Mapping[str, Statistics]) -> list[tuple[str, ...]]:
    """Return a row for each number: what it is, and its value for each file."""
    each = list(statistics.values())
    return [
        ("records", *(f"{one.num_records:,}" for one in each)),
        ("without a picture", *(f"{one.num_without_picture:,}" for one in each)),
        ("pictures", *(f"{len(one.pictures):,}" for one in each)),
        ("most records of a picture", *(f"{max(one.pictures.values(), default=0):,}" for one in each)),
    ]


def as_quantile_rows(statistics: Mapping[str, Statistics]) -> list[tuple[str, ...]]:
    """Return a row for each length and file, under `QUANTILE_HEADS`; a file without any has no row."""
    return [
        (title, name, *(f"{value:,}" for value in quantiles.values()))
        for field, (title, _) in LENGTHS.items()
        for name, one in statistics.items()
        if (quantiles := getattr(one, field).quantiles())
    ]


def statistics_page(statistics: Mapping[str, Statistics]) -> str:
    """Return the page."""
    body = _table(["", *statistics], as_rows(statistics))
    body += _table(QUANTILE_HEADS, as_quantile_rows(statistics), num_names=2)
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

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axis, (field, (title, unit)) in zip(figure.subplots(1, len(LENGTHS)), LENGTHS.items(), strict=True):
        each: dict[str, Lengths] = {name: getattr(one, field) for name, one in statistics.items()}
        end = max((lengths.most_usual() for lengths in each.values()), default=0)
        for number, (name, lengths) in enumerate(each.items()):
            if lengths.counts:
                counts, edges = lengths.histogram(end)
                axis.stairs(
                    counts / lengths.counts.total(),
                    edges,
                    label=visible(name),
                    color=COLOURS[number % len(COLOURS)],
                    # A later line lies on the earlier ones: thinner and with gaps, so that these are seen below it.
                    linestyle=DASHES[number % len(DASHES)],
                    linewidth=max(4.0 - 1.4 * number, 1.2),
                )
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel(title)
        axis.set_ylabel(f"share of {unit}")
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    if len(statistics) > 1 and (lines := axis.get_legend_handles_labels()[0]):
        figure.legend(handles=lines, fontsize=8, loc="outside lower center", ncols=min(len(lines), 4))
    return figure


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> str:
    """Return a table whose first columns are names and whose others are numbers."""
    head = "".join(f'<th scope="col">{show(name)}</th>' for name in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{show(cell)}</td>' for cell in cells[:num_names])}"
        f"{''.join(f'<td class=number>{show(cell)}</td>' for cell in cells[num_names:])}</tr>\n"
        for cells in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
