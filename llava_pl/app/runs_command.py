"""`llava-pl runs`: how runs stand, and their curves; words in, exit status out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill, indent
from typing import Any

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.app.run_list import Run, describe_run, find_runs, is_run, once
from llava_pl.curves.panels import show_number
from llava_pl.types import InputError
from llava_pl.visible import visible

DESCRIPTION = """List runs, the newest first: their state, steps, last losses and scores, and how to go on with those
that were stopped; or draw the curves of one or several. Status 1 if a file of a run could not be read.

  llava-pl runs
  llava-pl runs runs/finetune_7b/TIME --curves
  llava-pl runs runs/finetune_7b/TIME runs/finetune_13b/TIME --curves both.html"""

DEFAULT = Path("runs")
HERE = "-"
"""Stands for the run's own folder as the place of its curves."""

MOST_NAME = 31
"""Letters of a run's name for which the table makes room, those of finetune_7b/TIME."""


def main(words: Sequence[str]) -> int:
    """List runs or draw their curves, and return the exit status.

    Args:
        words: What follows ``llava-pl runs``.

    Raises:
        InputError: A folder is not there, or there is nothing to draw.
    """
    options = make_parser().parse_args(list(words))
    folders = once(options.folders or [DEFAULT])
    if options.folders or options.curves is not None:
        _check_folders(folders)
    if options.curves is not None:
        return _draw(folders, options.curves)
    runs = find_runs(*folders)
    if options.json:
        sys.stdout.write(json.dumps([_as_json(run) for run in runs], indent=2) + "\n")
    else:
        _print(runs, folders)
    return 1 if any(run.damage for run in runs) else 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(prog="llava-pl runs", description=DESCRIPTION)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="of runs, or of a run; default: runs")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "--curves", nargs="?", const=HERE, metavar="FILE",
        help="draw curves.png and curves.html in the folder of each run; with FILE (.html, .png) all over each other",
    )  # fmt: skip
    return parser


def _check_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise InputError(f"runs: {folder}: expected a folder of runs, found {found}; check the path")


def _draw(folders: Sequence[Path], place: str) -> int:
    from llava_pl.curves.draw import draw_run, draw_together, name_run

    for folder in folders:
        if not is_run(folder):
            raise InputError(f"runs: {folder}: --curves: expected the folder of a run, runs/NAME/TIME; give one")
    if place != HERE:
        path = Path(place)
        check_place(path, "--curves")
        draw_together(_short_names(folders), "Curves of " + ", ".join(map(str, folders)), path)
        sys.stdout.write(f"wrote {path}\n")
        return 0
    for folder in folders:
        written = draw_run(folder, name_run(folder, describe_run(folder).stage))
        if not written:
            raise InputError(
                f"runs: {folder}: --curves: expected a metric with two points, found none; try again later"
            )
        sys.stdout.write("".join(f"wrote {path}\n" for path in written))
    return 0


def _short_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Return folders by as much of the end of their paths as tells them apart."""
    whole = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-length:]) for parts in whole]
        if len(set(names)) == len(folders):
            break
    return dict(zip(names, folders, strict=True))


def _as_json(run: Run) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return value if abs(value) < float("inf") else None  # JSON has no NaN

    metrics = {name: plain(value) for name, value in run.metrics.items()}
    return {**asdict(run), "folder": str(run.folder), "metrics": metrics}


def _print(runs: Sequence[Run], folders: Sequence[Path]) -> None:
    place = ", ".join(map(str, folders))
    if not runs:
        sys.stdout.write(f"no runs in {place}; `llava-pl fit` makes them in runs/NAME/TIME\n")
        return
    from rich.console import Console

    from llava_pl.evaluation.report import Report, ReportTable
    from llava_pl.evaluation.report_terminal import print_report

    base = folders[0] if len(folders) == 1 else None
    rows = [_row(run, base) for run in runs]
    filled = [name for name in rows[0] if any(row[name] for row in rows)]
    console = Console()
    columns = _fit(filled, rows, console.width) if console.is_terminal else filled
    title = f"{len(runs):,} run{'s'[: len(runs) != 1]} in {place}"
    cells = tuple(tuple(row[name] for name in columns) for row in rows)
    print_report(Report("Runs", (), (ReportTable(title, tuple(columns), cells, has_numbers=False),)))
    # Not by rich, which would break the lines that are to be copied.
    for run, row in zip(runs, rows, strict=True):
        is_lost = run.command == "fit" and run.state not in ("running", "finished") and not run.has_checkpoint
        others = "; ".join(f"{name}: {visible(row[name])}" for name in filled if name not in columns and row[name])
        if run.reason or run.resume or run.damage or is_lost or others:
            end = run.state + (" before its first checkpoint" if is_lost else "")
            why = f" ({visible(run.reason)})" if run.reason else ""
            sys.stdout.write(f"{visible(str(run.folder))}: {end}{why}\n")
        if others:
            sys.stdout.write(indent(fill(others, console.width - 2), "  ") + "\n")
        sys.stdout.write("".join(f"  {visible(line)}\n" for line in run.damage))
        if run.resume:
            sys.stdout.write(f"  resume: {visible(run.resume)}\n")


def _fit(columns: Sequence[str], rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Return the columns that a terminal has room for; those that are left out are told below the table."""
    kept = list(columns)
    for spare in ("scores", "size", "what", "age"):
        widths = {name: max(map(len, (name, *(row[name] for row in rows)))) for name in kept}
        widths["run"] = min(widths["run"], MOST_NAME)  # a longer one is folded
        if sum(widths.values()) + 2 * len(kept) > width and spare in kept:
            kept.remove(spare)
    return kept


def _row(run: Run, base: Path | None) -> dict[str, str]:
    """Return the cells of a run by their heads; some may be empty in all rows."""
    steps = "" if run.step is None else f"{run.step:,}" + (f" of {run.total_steps:,}" if run.total_steps else "")
    scores = [f"{name.partition('/')[2]} {value:.1f}" for name, value in run.metrics.items() if "/loss" not in name]
    return {
        "run": str(run.folder.relative_to(base) if base is not None and run.folder != base else run.folder),
        "what": " ".join(filter(None, (run.command, run.stage))) or "?",
        "state": run.state,
        "step": steps,
        "loss": _number(run, "train/loss"),
        "val loss": _number(run, "val/loss"),
        "scores": ", ".join(scores[:3]) + (f" and {len(scores) - 3} more" if len(scores) > 3 else ""),
        "age": show_age(time.time() - run.written),
        "size": show_size(run.num_bytes),
    }


def _number(run: Run, metric: str) -> str:
    return show_number(run.metrics[metric]) if metric in run.metrics else ""


def show_age(seconds: float) -> str:
    """Return a time in one unit.

    >>> show_age(12.3), show_age(150), show_age(3 * 3600), show_age(90 * 3600)
    ('12 s', '2 min', '3 h', '3 d')
    """
    for unit, size, least in (("d", 86400, 172800), ("h", 3600, 7200), ("min", 60, 120)):
        if seconds >= least:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def show_size(num_bytes: int) -> str:
    """Return a number of bytes in one unit.

    >>> show_size(12), show_size(5_000_000), show_size(14 * 2**30)
    ('12 B', '4.8 MiB', '14 GiB')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{0 if num_bytes >= 10 * size else 1}f} {unit}"
    return f"{num_bytes} B"
