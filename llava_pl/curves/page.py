"""Panels as a page that needs no network and no script: each a drawing of its own (SVG), with the numbers under it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llava_pl.curves.panels import Line, Panel
from llava_pl.curves.png import COLOURS
from llava_pl.curves.ticks import log_ticks, show_number, ticks
from llava_pl.html_page import page, show

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 30, 40
DASHES = ("", "6 4", "2 3", "8 3 2 3")
MOST_HOVERED = 150
"""Points of a line that tell their value under the pointer."""

STYLE = """
.panels { display: flex; flex-wrap: wrap; gap: 1rem; }
.panel { max-width: 100%; margin: 0; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; }
.grid { stroke: #e4e4e4; } .axis { stroke: #444; } .line { fill: none; stroke-linejoin: round; }
.point { opacity: 0; } .point:hover { opacity: 1; }
.key { display: inline-block; width: 1.6rem; vertical-align: middle; }
"""


def curves_page(panels: Sequence[Panel], title: str, notes: Sequence[str] = ()) -> str:
    """Return a page.

    Args:
        panels: What it shows.
        title: Its heading.
        notes: Sentences that come first.
    """
    said = [*notes, *(f"{panel.title}: {note}" for panel in panels for note in panel.notes)]
    warnings = "".join(f'<p class="warning">{show(note)}</p>\n' for note in said)
    drawings = "".join(f'<figure class="panel">\n{_svg(panel)}\n</figure>\n' for panel in panels)
    hint = "<p>Faint: each row of metrics.csv. Strong: the mean of rows around it. Point at a line to read a value.</p>"
    return page(title, f'{warnings}{hint}\n<div class="panels">\n{drawings}</div>\n{_table(panels)}', STYLE)


def _svg(panel: Panel) -> str:
    """Return a drawing."""
    low, high = min(line.steps[0] for line in panel.lines), max(line.steps[-1] for line in panel.lines)
    low = 0 if low < 0.05 * high else low  # an axis that begins at 9 looks as if something were missing
    room = max(1.0, 0.02 * (high - low))
    scale = _Scale((low - room, high + room), panel.limits, is_log=panel.is_log)
    clip = f"clip-{panel.title.replace(' ', '-')}"
    label = f"{panel.title}, {panel.unit}, over steps {low:,} to {high:,}"
    area = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    return "\n".join(
        (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
            f'aria-label="{show(label)}">',
            f'<clipPath id="{clip}"><rect {area}/></clipPath>',
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="18" text-anchor="middle" font-weight="bold">'
            f"{show(panel.title)}</text>",
            _axes(panel, scale, low, high),
            f'<g clip-path="url(#{clip})">',
            *(_draw(line, scale) for line in panel.lines),
            "</g>",
            *(_points(line, scale, panel) for line in panel.lines),
            "</svg>",
        )
    )


class _Scale:
    """Where steps and values lie on a drawing."""

    def __init__(self, steps: tuple[float, float], limits: tuple[float, float], *, is_log: bool) -> None:
        self._steps, self._is_log = steps, is_log
        self._low, self._high = (math.log10(each) for each in limits) if is_log else limits

    def x(self, step: float) -> float:
        first, last = self._steps
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        place = math.log10(value) if self._is_log else value
        return HEIGHT - BOTTOM - (place - self._low) / (self._high - self._low) * (HEIGHT - TOP - BOTTOM)


def _axes(panel: Panel, scale: _Scale, first: int, last: int) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in log_ticks(*panel.limits) if panel.is_log else ticks(*panel.limits):
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{show_number(value)}</text>')
    for step in dict.fromkeys(round(tick) for tick in ticks(first, max(last, first + 1))):
        x = scale.x(step)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{step:,}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    parts.append(f'<text x="{(LEFT + right) / 2:g}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 14 {middle:g})" text-anchor="middle"'
    parts.append(f'<text x="14" y="{middle:g}" {turned}>{show(panel.unit)}</text>')
    return "\n".join(parts)


def _draw(line: Line, scale: _Scale) -> str:
    colour = COLOURS[line.colour % len(COLOURS)]
    dash = f' stroke-dasharray="{DASHES[line.dash % len(DASHES)]}"' if line.dash % len(DASHES) else ""
    strong = line.values if line.smooth is None else line.smooth
    drawn = f'<path class="line" stroke="{colour}" stroke-width="1.8"{dash} d="{_path(line.steps, strong, scale)}"/>'
    if line.smooth is None:
        return drawn
    faint = _path(line.steps, line.values, scale)
    return f'<path class="line" stroke="{colour}" stroke-width="0.8" opacity="0.3" d="{faint}"/>\n{drawn}'


def _path(steps: Sequence[int], values: Sequence[float], scale: _Scale) -> str:
    return "M" + "L".join(
        f"{scale.x(step):.1f} {scale.y(value):.1f}" for step, value in zip(steps, values, strict=True)
    )


def _points(line: Line, scale: _Scale, panel: Panel) -> str:
    colour = COLOURS[line.colour % len(COLOURS)]
    every = math.ceil(len(line.steps) / MOST_HOVERED)
    values = line.values if line.smooth is None else line.smooth
    shown = ("" if line.smooth is None else "mean ") + panel.unit
    return "\n".join(
        f'<circle class="point" cx="{scale.x(step):.1f}" cy="{scale.y(value):.1f}" r="4" fill="{colour}">'
        f"<title>{show(line.label)}, step {step:,}: {show_number(value)} {show(shown)}</title></circle>"
        for step, value in list(zip(line.steps, values, strict=True))[::every]
        if panel.limits[0] <= value <= panel.limits[1]
    )


def _table(panels: Sequence[Panel]) -> str:
    """Return the numbers of each line, which is the legend as well."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("curve", "unit", "first", "last", "lowest", "highest"))
    rows = "".join(_row(panel, line) for panel in panels for line in panel.lines)
    return f"<h2>Numbers</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"


def _row(panel: Panel, line: Line) -> str:
    colour, dash = COLOURS[line.colour % len(COLOURS)], DASHES[line.dash % len(DASHES)]
    key = (
        f'<svg class="key" viewBox="0 0 26 8" width="26" height="8" aria-hidden="true"><path stroke="{colour}" '
        f'stroke-width="2" stroke-dasharray="{dash}" d="M0 4H26"/></svg>'
    )
    cells = "".join(f'<td class="number">{show_number(value)}</td>' for value in line.extent)
    name = f"{key} {show(panel.title)}: {show(line.label)}"
    return f"<tr><td>{name}</td><td>{show(panel.unit)}</td>{cells}</tr>\n"
