"""What a run has logged: ``metrics.csv`` to one row of points for each metric.

In: the file, also while the run still writes it. Out: `Metrics`. Nothing beyond Python's own library is imported here.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llava_pl.types import InputError

LOG = "metrics.csv"
"""Name of the file in the folder of a run."""

STEP = "step"
NO_SCORES = ("count", "unparsed", "checkpoint_step")
"""What an evaluation logs of a task beside its scores."""

Point = tuple[int, float]
"""The number of the optimizer step, from 0 as in the file, and a value, which may be no number."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is in a log.

    Args:
        points: Of each metric, in the order of the file.
        num_damaged: Rows that could not be read; one that a run is writing is none.
    """

    points: dict[str, list[Point]]
    num_damaged: int = 0


def read_metrics(path: Path) -> Metrics:
    """Return all points of a log.

    Raises:
        InputError: The file is missing, or no log.
    """
    header, lines = _open(path)
    names, place = _names(path, header)
    points: dict[str, list[Point]] = {name: [] for name in names if name not in (STEP, "epoch")}
    num_damaged = 0
    for line in lines:
        cells = line.split(",")
        try:
            step = int(float(cells[place]))
            row = [(name, float(cell)) for name, cell in zip(names, cells, strict=True) if cell]
        except (ValueError, IndexError, OverflowError):
            num_damaged += 1
            continue
        for name, value in row:
            if name in points:
                points[name].append((step, value))
    return Metrics({name: each for name, each in points.items() if each}, num_damaged)


def read_last(path: Path) -> tuple[int, dict[str, float]]:
    """Return the last step of a log, -1 where it has none, and the last value of each metric that is wanted.

    Those are the losses and the scores of tasks. The file is read from its end, as it may have a hundred thousand rows.

    Raises:
        InputError: The file is missing, or no log.
    """
    header, lines = _open(path)
    names, place = _names(path, header)
    missing = {number: name for number, name in enumerate(names) if name.endswith("/loss") or is_score(name)}
    last, found = -1, {}
    for line in reversed(lines):
        cells = line.split(",")
        try:
            last = max(last, int(float(cells[place])))
            if len(cells) == len(names):
                new = {number: float(cells[number]) for number in missing if cells[number]}
                found.update({missing.pop(number): value for number, value in new.items()})
        except (ValueError, IndexError, OverflowError):
            continue
        if not missing:
            break
    return last, {name: found[name] for name in names if name in found}


def is_score(name: str) -> bool:
    """Return whether a metric is the score of a task, asked with its own pictures.

    >>> is_score("val/scienceqa/accuracy"), is_score("val/scienceqa/accuracy/NAT"), is_score("val/scienceqa/count")
    (True, False, False)
    """
    found = re.fullmatch(r"(?:val|test)/(?P<task>[^/]+)/(?P<score>[^/]+)", name)
    return found is not None and found["task"] != "skipped" and found["score"] not in NO_SCORES


def _open(path: Path) -> tuple[str, list[str]]:
    """Return the head and the other whole lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give the folder of a run that has logged something") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{path}: cannot be read ({reason}); expected the log of a run") from error
    whole = text[: text.rfind("\n") + 1]  # the rest is being written, or a kill has torn it
    lines = [line for line in whole.splitlines() if line]
    return (lines[0] if lines else ""), lines[1:]


def _names(path: Path, header: str) -> tuple[list[str], int]:
    # Only heads are quoted: they may be names of files, and rows are numbers.
    names = next(islice(csv.reader(io.StringIO(header)), 1), [])
    if STEP not in names:
        raise InputError(f"{path}: expected the column 'step' in line 1, found none; expected the log of a run")
    return names, names.index(STEP)
