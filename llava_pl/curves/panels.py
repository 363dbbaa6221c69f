"""Which curves a picture shows, and how: metrics to panels that PNG and page draw alike.

In: the `Metrics` of one or several runs. Out: a `Panel` for each kind of metric that they have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from llava_pl.curves.metrics import Metrics, Point, is_score

T = TypeVar("T")

SMOOTHED_SHARE = 30
"""A smoothed point is the mean of one in so many rows around it."""

LEAST_SMOOTHED = 20
"""Rows from which on a line is smoothed."""

LOG_RATIO = 15.0
"""Loss and gradients are drawn on a logarithmic scale when most of their values span more than this ratio."""

MOST_RAW = 2_000
"""Points up to which each is drawn; of more, the lowest and the highest of neighbours, so that spikes stay."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve.

    Args:
        label: What it is called in the legend.
        steps: Where its points lie.
        values: What was logged there, all finite; of many, the lowest and the highest of neighbours.
        smooth: Means over the points around each, None of a line that is shown as it is.
        extent: The first, the last, the lowest and the highest value, of all that was logged.
        colour: Which of the colours it has.
        dash: Which kind of line it has.
    """

    label: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    smooth: tuple[float, ...] | None
    extent: tuple[float, float, float, float]
    colour: int
    dash: int


@dataclass(frozen=True, slots=True)
class Panel:
    """A pair of axes.

    Args:
        title: What its lines show.
        unit: Of its values.
        lines: None where nothing is finite, which a note says.
        limits: Of its values, the lower below the higher.
        is_log: Whether the scale is logarithmic.
        notes: What a reader has to know about it.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    limits: tuple[float, float]
    is_log: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """Metrics that belong on the same axes.

    Args:
        title: Of their panel.
        unit: Of their values.
        is_one: Whether a metric is one of them.
        short: What is cut off a metric's name in the legend.
        factor: What values are multiplied by, to be of that unit.
        may_be_log: Whether they may be drawn on a logarithmic scale.
        is_smoothed: Whether they are noisy from row to row.
        starts_at_zero: Whether their axis does, where none is below.
    """

    title: str
    unit: str
    is_one: Callable[[str], bool]
    short: str = ""
    factor: float = 1.0
    may_be_log: bool = False
    is_smoothed: bool = True
    starts_at_zero: bool = True


KINDS = (
    Kind("loss", "per supervised token", lambda n: n in ("train/loss", "val/loss"), may_be_log=True),
    Kind("learning rate", "per step", lambda n: n.startswith(("lr/", "lr-")), "lr/", is_smoothed=False),
    Kind("gradient norm", "before clipping", lambda n: n == "train/grad_norm", may_be_log=True),
    Kind("throughput", "tokens / s", lambda n: n == "perf/tokens_per_s"),
    Kind(
        "use of the device", "%", lambda n: n in ("perf/mfu", "perf/data_wait", "perf/padding"), "perf/", factor=100.0
    ),
)


def make_panels(runs: Mapping[str, Metrics]) -> list[Panel]:
    """Return the panels that have at least one line of two points, or a number that is none; a point is no curve.

    Args:
        runs: What each has logged, by the name that the legend gives it; of one run the name is left out.
    """
    kinds = [*KINDS, *_scores(runs)]
    return [panel for kind in kinds if (panel := _panel(kind, runs)) is not None]


def _scores(runs: Mapping[str, Metrics]) -> list[Kind]:
    """Return a kind for each task: those of all on the same axes are too many, and of several units."""
    tasks: dict[str, set[str]] = {}
    for name in sorted({name for metrics in runs.values() for name in metrics.points if is_score(name)}):
        tasks.setdefault(name.split("/")[1], set()).add(name)
    return [
        Kind(
            f"scores of {task}" if len(own) > 1 else min(own),
            "as reported, mostly %",
            own.__contains__,
            is_smoothed=False,
            starts_at_zero=False,
        )
        for task, own in tasks.items()
    ]


def _panel(kind: Kind, runs: Mapping[str, Metrics]) -> Panel | None:
    lines: list[Line] = []
    notes: list[str] = []
    drawn: list[float] = []
    groups = {run: _group(kind, metrics) for run, metrics in runs.items()}
    is_one_each = all(len(group) <= 1 for group in groups.values())
    for number, (run, group) in enumerate(groups.items()):
        for dash, (label, points) in enumerate(group.items()):
            finite = [(step, value * kind.factor) for step, value in points if math.isfinite(value)]
            named = label if len(runs) == 1 else run if is_one_each else f"{run}: {label}"
            if len(finite) < len(points):
                first = next(step for step, value in points if not math.isfinite(value))
                rows = len(points) - len(finite)
                notes.append(f"{named}: no finite number in {rows:,} row{'s'[: rows > 1]}, first at step {first:,}")
            if finite:
                drawn += (value for _, value in finite)
                colour = number if len(runs) > 1 else dash
                lines.append(_line(named, finite, colour=colour, dash=dash, is_smoothed=kind.is_smoothed))
    if not notes and all(len(line.steps) < 2 for line in lines):
        return None
    if not lines:
        return Panel(kind.title, kind.unit, (), (0.0, 1.0), notes=tuple(notes))
    drawn.sort()
    is_log = kind.may_be_log and drawn[0] > 0 and _at(drawn, 0.98) / _at(drawn, 0.02) > LOG_RATIO
    limits = _limits(drawn, is_log=is_log, starts_at_zero=kind.starts_at_zero)
    if drawn[-1] > limits[1]:
        notes.append(f"values up to {show_number(drawn[-1])} lie above the axis")
    return Panel(kind.title, kind.unit, tuple(lines), limits, is_log, tuple(notes))


def _group(kind: Kind, metrics: Metrics) -> dict[str, list[Point]]:
    """Return the metrics of a kind by their labels; those with the same points share a line."""
    groups: dict[tuple[Point, ...], list[str]] = {}
    for name in sorted(filter(kind.is_one, metrics.points)):
        groups.setdefault(tuple(metrics.points[name]), []).append(name.removeprefix(kind.short))
    return {", ".join(names): list(points) for points, names in groups.items()}


def _line(label: str, points: Sequence[Point], *, colour: int, dash: int, is_smoothed: bool) -> Line:
    steps, logged = zip(*points, strict=True)
    extent = (logged[0], logged[-1], min(logged), max(logged))
    smooth = smoothed(logged) if is_smoothed and len(logged) >= LEAST_SMOOTHED else None
    places = _thin(logged)

    def at(row: Sequence[T]) -> tuple[T, ...]:
        return tuple(row[place] for place in places)

    return Line(label, at(steps), at(logged), None if smooth is None else at(smooth), extent, colour, dash)


def _thin(values: Sequence[float]) -> Sequence[int]:
    """Return which values are drawn: the ends, and the lowest and the highest of each bundle of neighbours."""
    if len(values) <= MOST_RAW:
        return range(len(values))
    size = math.ceil(2 * len(values) / MOST_RAW)
    bundles = [range(start, min(start + size, len(values))) for start in range(0, len(values), size)]
    extremes = {pick(bundle, key=values.__getitem__) for bundle in bundles for pick in (min, max)}
    return sorted({0, *extremes, len(values) - 1})


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and those around it, as far as there are some on both sides.

    >>> smoothed([0.0] * 30 + [3.0] + [0.0] * 30)[28:33]
    [0.0, 1.0, 1.0, 1.0, 0.0]
    """
    reach = max(1, len(values) // SMOOTHED_SHARE // 2)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    edges = [(max(0, place - reach), min(len(values), place + reach + 1)) for place in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in edges]


def _limits(drawn: Sequence[float], *, is_log: bool, starts_at_zero: bool) -> tuple[float, float]:
    """Return what the axis shows: all values, but for spikes far above nearly all of them."""
    low, high, usual = drawn[0], drawn[-1], _at(drawn, 0.98)
    if not is_log and low >= 0 and 0 < 8 * usual < high:
        high = 1.5 * usual  # a few spikes would press all else onto the axis
    if is_log:
        return low / 1.15, high * 1.15
    if starts_at_zero and low >= 0:
        return 0.0, high * 1.08 or 1.0
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def show_number(value: float) -> str:
    """Return a number in four digits.

    >>> show_number(0.034561), show_number(11040.7), show_number(3.4e-07), show_number(0.0)
    ('0.03456', '11,041', '3.4e-07', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
