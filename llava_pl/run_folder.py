"""The folder of a run: where it is, which checkpoint `last` means, and what an earlier run left in it.

In: what the command line and the configuration say. Out: paths that `lightning_cli.py` gives to the trainer.
"""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

from llava_pl.types import InputError

RUNS = Path("runs")
RUN_DIR_VARIABLE = "LLAVA_PL_RUN_DIR"


def choose_run_dir(given: str | None, name: str) -> Path:
    """Return the folder of a new run; processes that a strategy starts again inherit it through the environment.

    Args:
        given: A folder that the user chose; None for ``runs/NAME/TIME``.
        name: Name of the run.

    Raises:
        InputError: The folder is a file, or the name is none of a folder.
    """
    if given is not None:
        if Path(given).exists() and not Path(given).is_dir():
            raise InputError(f"run_dir: {given}: expected a folder or a new name, found a file; choose another place")
        return Path(given)
    _check_name(name)
    if RUN_DIR_VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[RUN_DIR_VARIABLE])
    stamp = RUNS / name / time.strftime("%Y-%m-%d_%H-%M-%S")
    run_dir, number = stamp, 1
    while run_dir.exists():
        number += 1
        run_dir = stamp.with_name(f"{stamp.name}-{number}")
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    return run_dir


def find_checkpoint(given: str, *, run_dir: str | None, name: str) -> str:
    """Return the file that ``--ckpt_path`` means.

    Args:
        given: A path, or ``last``: the newest checkpoint of the given folder, or of all runs of this name.
        run_dir: As for `choose_run_dir`.
        name: Name of the run.

    Raises:
        InputError: There is no such checkpoint, or the file is none.
    """
    if given == "last":
        _check_name(name)
        folders = [Path(run_dir)] if run_dir else sorted((RUNS / name).glob("*/"), reverse=True)
        found = [path for folder in folders if (path := folder / "checkpoints" / "last.ckpt").is_file()]
        if not found:
            place = run_dir or RUNS / name
            raise InputError(f"ckpt_path: last: no checkpoints/last.ckpt in {place}; give the path of a checkpoint")
        return str(found[0])
    if given in ("best", "hpc", "registry"):
        raise InputError(f"ckpt_path: {given}: expected 'last' or the path of a checkpoint; give one of these")
    check_checkpoint(Path(given), "ckpt_path")
    return given


def check_checkpoint(path: Path, option: str) -> None:
    """Check that a checkpoint is there and complete, before anything expensive is loaded.

    Raises:
        InputError: No such file, or not what ``torch.save`` writes: a zip archive, whose table of contents comes last.
    """
    if not path.exists():
        raise InputError(f"{option}: {path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{option}: {path}: expected a checkpoint file, found a folder; name a .ckpt file in it")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{option}: {path}: expected a checkpoint, found another or an incomplete file; use an older")


def keep_old_metrics(run_dir: Path) -> None:
    """Move an earlier run's log aside: CSVLogger would delete it."""
    metrics = run_dir / "metrics.csv"
    number = 1
    while (old := run_dir / f"metrics-{number}.csv").exists():
        number += 1
    if metrics.exists():
        metrics.rename(old)


def _check_name(name: str) -> None:
    if Path(name).name != name or name in ("", ".."):
        raise InputError(f"name: {name!r}: expected a plain folder name; use --run_dir for a folder elsewhere")
