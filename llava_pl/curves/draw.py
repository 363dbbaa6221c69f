"""Writes the curves of a run into its folder, or those of several into one file.

In: ``metrics.csv`` of each. Out: ``curves.png`` and ``curves.html``. Both are written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llava_pl.curves.figure import make_figure
from llava_pl.curves.metrics import LOG, Metrics, read_metrics
from llava_pl.curves.page import curves_page
from llava_pl.curves.panels import Panel, make_panels
from llava_pl.types import InputError
from llava_pl.whole_file import whole_file

NAME = "curves"


def name_run(run_dir: Path, stage: str | None) -> str:
    """Return what a run is called above its curves.

    >>> name_run(Path("runs/align_7b/2026-05-01_10-00-00"), "align")
    'align_7b/2026-05-01_10-00-00, stage align'
    """
    path = "/".join(run_dir.absolute().parts[-2:])
    return f"{path}, stage {stage}" if stage else path


def draw_run(run_dir: Path, title: str) -> list[Path]:
    """Write the curves of a run, and return the files; none where it has logged no two points of anything.

    Args:
        run_dir: Folder of the run; it may still be going on.
        title: Above the curves.

    Raises:
        InputError: There is no log, or it cannot be read.
    """
    metrics = read_metrics(run_dir / LOG)
    panels = make_panels({"": metrics})
    if not panels:
        return []
    paths = [run_dir / f"{NAME}.png", run_dir / f"{NAME}.html"]
    for path in paths:
        _write(path, panels, title, {"": metrics})
    return paths


def draw_together(runs: Mapping[str, Path], title: str, path: Path) -> None:
    """Write the curves of runs over each other.

    Args:
        runs: Their folders, by the names that the legend gives them.
        title: Above the curves.
        path: A page, or a picture if it ends in ``.png``.

    Raises:
        InputError: A run has no log or nothing to draw, or it is not clear what to write.
    """
    if path.suffix not in (".png", ".html"):
        raise InputError(f"--curves: {path}: expected a name that ends in .html or .png; choose one of these")
    metrics = {name: read_metrics(folder / LOG) for name, folder in runs.items()}
    panels = make_panels(metrics)
    if not panels:
        raise InputError(
            f"--curves: {', '.join(map(str, runs.values()))}: expected a metric with two points, found none; draw it "
            "when the run has logged more"
        )
    _write(path, panels, title, metrics)


def _write(path: Path, panels: list[Panel], title: str, metrics: Mapping[str, Metrics]) -> None:
    if path.suffix == ".png":
        with whole_file(path) as part:
            make_figure(panels, title).savefig(part, format="png", dpi=150)
        return
    notes = [
        f"{name + ': ' if name else ''}damaged rows of {LOG} that were left out: {each.num_damaged:,}"
        for name, each in metrics.items()
        if each.num_damaged
    ]
    with whole_file(path) as part:
        part.write_text(curves_page(panels, title, notes), encoding="utf-8")
