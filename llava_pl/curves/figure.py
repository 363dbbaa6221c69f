"""Panels as a drawing: for papers and notes, and for pages.

In: panels. Out: a figure of matplotlib's.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any

from llava_pl.curves.panels import Line, Panel, show_number
from llava_pl.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3b6ea5", "#c8553d", "#2a9d5c", "#8e5ea2", "#d98c2b", "#5f6b73")
DASHES = ("-", "--", ":", "-.")
LEGEND_SIZE = 8
NOTE_LETTERS = 60
MOST_INSIDE = 3
"""Lines up to which the legend lies among them; that of more lies below."""

LEGEND_INCHES = 0.17
"""Of a line of a legend that lies below."""

MOST_MARKED = 30
"""Points up to which each is marked."""


def make_figure(panels: Sequence[Panel], title: str = "") -> Figure:
    """Return a drawing.

    Args:
        panels: At least one.
        title: Above all of them.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and asks for a display

    columns = min(3, len(panels)) if len(panels) != 4 else 2
    rows = ceil(len(panels) / columns)
    below = [len(panel.lines) if len(panel.lines) > MOST_INSIDE else 0 for panel in panels]
    legends = LEGEND_INCHES * sum(max(below[start : start + columns]) for start in range(0, len(panels), columns))
    figure = Figure(figsize=(max(4.2 * columns, 5.6), 2.9 * rows + legends + 0.5), layout="constrained")
    if title:
        figure.suptitle(_plain(title), fontsize=11)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes, panels, strict=False):
        draw_panel(axis, panel)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def as_svg(figure: Figure) -> str:
    """Return a drawing as a part of a page: letters stay letters, and the same drawing is the same text."""
    from matplotlib import rc_context

    file = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def draw_panel(axis: Axes, panel: Panel) -> None:
    """Draw a panel onto axes of matplotlib."""
    for line in panel.lines:
        _draw_line(axis, line)
    if panel.is_log:
        axis.set_yscale("log")
    else:
        axis.yaxis.set_major_formatter(lambda value, _: show_number(value))
    axis.set_ylim(*panel.limits)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel(panel.unit, fontsize=9)
    axis.locator_params(axis="x", integer=True, nbins=6)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if not panel.lines:
        axis.set(xticks=[], yticks=[])  # nothing is finite, as a note says
    axis.tick_params(labelsize=8, which="both")
    axis.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(panel.lines) > 1:
        is_below = len(panel.lines) > MOST_INSIDE
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22)} if is_below else {"loc": "best"}
        axis.legend(**place, fontsize=LEGEND_SIZE, frameon=True, framealpha=0.8, edgecolor="none")
    if panel.notes:
        text = "\n".join(fill(_plain(note), NOTE_LETTERS) for note in panel.notes[:3])
        axis.text(0.02, 0.02, text, transform=axis.transAxes, fontsize=6.5, color="#8b0000")


def _draw_line(axis: Axes, line: Line) -> None:
    colour, label = COLOURS[line.colour % len(COLOURS)], _plain(line.label)
    look: dict[str, Any] = {"color": colour, "linestyle": DASHES[line.dash % len(DASHES)]}
    if line.smooth is not None:
        axis.plot(line.steps, line.values, color=colour, linewidth=0.7, alpha=0.28)
        axis.plot(line.steps, line.smooth, linewidth=1.5, label=label, **look)
        return
    marker = "o" if len(line.steps) <= MOST_MARKED else None
    axis.plot(line.steps, line.values, linewidth=1.5, marker=marker, markersize=3, label=label, **look)


def _plain(text: str) -> str:
    """Return text that matplotlib takes for no formula, and that hides no legend by its first letter."""
    shown = visible(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
