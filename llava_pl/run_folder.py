"""The folder of a run: where it is, which checkpoint `last` means, and what an earlier run left in it.

In: what the command line and the configuration say. Out: paths that `lightning_cli.py` gives to the trainer.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
import warnings
from errno import EACCES, EAGAIN
from pathlib import Path
from typing import TextIO

from llava_pl.export.shards import check_no_shard
from llava_pl.run_state import read_state
from llava_pl.training.checksum import find_damage
from llava_pl.training.metrics_log import free_name
from llava_pl.training.processes import is_first_process, is_started_beside_others
from llava_pl.types import InputError

RUNS = Path("runs")
RUN_DIR_VARIABLE = "LLAVA_PL_RUN_DIR"
MAX_NAME_BYTES = 255
"""What file systems take for the name of a file or folder."""


def choose_run_dir(given: str | None, name: str, num_nodes: int = 1) -> Path:
    """Return the folder of a new run; processes that a strategy starts again inherit it through the environment.

    Args:
        given: A folder that the user chose; None for ``runs/NAME/TIME``.
        name: Name of the run.
        num_nodes: Of the trainer.

    Raises:
        InputError: The folder is a file, the name is none of a folder, or processes would choose different folders.
    """
    if given is not None:
        try:
            is_taken = Path(given).exists() and not Path(given).is_dir()
        except OSError as error:  # too long, or in a folder that may not be looked into
            raise InputError(f"run_dir: {given}: {error.strerror}; choose another place") from error
        if is_taken:
            raise InputError(f"run_dir: {given}: expected a folder or a new name, found a file; choose another place")
        return Path(given)
    _check_name(name)
    if RUN_DIR_VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[RUN_DIR_VARIABLE])
    if is_started_beside_others(num_nodes):
        raise InputError(
            "run_dir: expected the folder of the run where torchrun, srun or several nodes start its processes, found "
            "none; give --run_dir, the same to all of them, on a disk that they share"
        )
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
        given: A path, or ``last``: the newest good checkpoint of the given folder, or of the newest run of this name.
        run_dir: As for `choose_run_dir`.
        name: Name of the run.

    Raises:
        InputError: There is no such checkpoint, or the file is none.
    """
    if given == "last":
        _check_name(name)
        folders = [Path(run_dir)] if run_dir else sorted((RUNS / name).glob("*/"), reverse=True)
        for number, folder in enumerate(folders):
            if found := _newest_checkpoints(folder / "checkpoints"):
                # Only a run that trained has a ledger; an evaluation has nothing to go on with.
                if newer := [other for other in folders[:number] if (other / "ledger").exists()]:
                    raise InputError(
                        f"ckpt_path: last: the newest run, {newer[0]}, was stopped before its first checkpoint; "
                        f"start it again without --ckpt_path, or go on with an older one: --run_dir {folder}"
                    )
                return str(_first_good(found))
        place = run_dir or RUNS / name
        raise InputError(
            f"ckpt_path: last: no checkpoints/last.ckpt in {place}; start without --ckpt_path, or give the path of one"
        )
    if given in ("auto", "best", "hpc", "registry"):
        raise InputError(
            f"ckpt_path: {given}: expected 'last', the path of a checkpoint or, for fit, 'auto'; give one of these"
        )
    check_checkpoint(Path(given), "ckpt_path")
    return given


def find_or_begin(run_dir: str | None, name: str) -> str | None:
    """Return the checkpoint that ``--ckpt_path auto`` means, None where a run begins, and say which of the two it is.

    Args:
        run_dir: The folder that the user chose.
        name: Name of the run.

    Raises:
        InputError: No folder was chosen, or it holds damaged checkpoints alone.
    """
    if run_dir is None:
        raise InputError(
            "ckpt_path: auto: expected the folder of the run as well, found no --run_dir; give one, the same each time"
        )
    choose_run_dir(run_dir, name)
    found = None
    if _newest_checkpoints(Path(run_dir) / "checkpoints"):
        found = find_checkpoint("last", run_dir=run_dir, name=name)
    if is_first_process():
        what = f"going on with {found}" if found else f"no checkpoint in {run_dir}, starting from the beginning"
        sys.stderr.write(f"llava-pl: ckpt_path: auto: {what}\n")
    return found


def refuse_other_runs(run_dir: Path, *, is_continued: bool) -> None:
    """Check that the folder that a run starts in has no checkpoints of another one.

    Args:
        run_dir: The folder.
        is_continued: The checkpoints are those of this run.

    Raises:
        InputError: The files of both would lie among each other.
    """
    if not is_continued and (found := _newest_checkpoints(run_dir / "checkpoints")):
        raise InputError(
            f"run_dir: {run_dir}: expected a folder without checkpoints, found {found[0].resolve().name} of an earlier "
            "run; go on with that run by --ckpt_path last (or auto), or choose another --run_dir"
        )


def claim_folder(run_dir: Path) -> TextIO | None:
    """Return a file by which the right to write to a folder is held until it is closed, or the process is gone.

    The first process of a run holds it for all of them; None for the others, and on disks without locks.

    Raises:
        InputError: Another run holds it, on this machine or on another one that shares the disk.
    """
    if not is_first_process():
        return None
    run_dir.mkdir(parents=True, exist_ok=True)
    file = (run_dir / ".lock").open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, no data worker keeps it
    except OSError as error:
        file.close()
        if error.errno not in (EAGAIN, EACCES):
            return None
        who = _who_works(run_dir)
        raise InputError(
            f"run_dir: {run_dir}: expected a folder in which no run is at work, found one{who}; wait until it ends or "
            "stop it, or choose another --run_dir"
        ) from error
    return file


def _who_works(run_dir: Path) -> str:
    try:
        state = read_state(run_dir)
    except InputError:
        return ""
    return "" if state is None else f": process {state.pid} on {state.host}, `llava-pl {state.command}`"


def _newest_checkpoints(folder: Path) -> list[Path]:
    """Return ``last.ckpt``, then the other files from new to old."""
    last = folder / "last.ckpt"
    files = [path for path in folder.glob("*.ckpt") if path.exists() and path.resolve() != last.resolve()]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [last, *files] if last.exists() else files


def _first_good(paths: list[Path]) -> Path:
    """Return the first undamaged one, and say aloud which ones are not.

    Raises:
        InputError: None is good.
    """
    for path in paths:
        damage = find_damage(path)
        if damage is None:
            if path != paths[0]:
                warnings.warn(
                    f"ckpt_path: {paths[0].resolve()} is damaged ({find_damage(paths[0])}); going on with {path}",
                    stacklevel=1,
                )
            return path
    raise InputError(
        f"ckpt_path: {paths[0]}: {find_damage(paths[0])}, and there is no other good one; start anew in another "
        "--run_dir"
    )


def continued_run(ckpt_path: str, run_dir: str | None, *, is_last: bool) -> Path | None:
    """Return the folder of the run that a checkpoint continues, None if a new one starts from it.

    Args:
        ckpt_path: The checkpoint.
        run_dir: The folder that the user chose.
        is_last: The user asked for the last checkpoint, not for a certain file.
    """
    folder = Path(ckpt_path).absolute().parent
    if run_dir is not None:
        return Path(run_dir) if (Path(run_dir) / "checkpoints").resolve() == folder.resolve() else None
    return Path(ckpt_path).parent.parent if is_last else None


def check_checkpoint(path: Path, option: str) -> None:
    """Check that a checkpoint is there and what was written, before anything expensive is loaded.

    Raises:
        InputError: No such file, or not what ``torch.save`` and the checksum say.
    """
    if not path.exists():
        raise InputError(f"{option}: {path}: no such file; check the path")
    if path.is_dir() and path.suffix != ".ckpt":
        raise InputError(f"{option}: {path}: expected a checkpoint file, found a folder; name a .ckpt file in it")
    check_no_shard(path, f"{option}: ")
    if damage := find_damage(path):
        raise InputError(f"{option}: {path}: expected a checkpoint, {damage}; use an older")


def choose_log(run_dir: Path, command: str) -> str:
    """Return the name of a run's log: an evaluation in the folder of a run that trained leaves that one's alone."""
    return f"metrics-{command}.csv" if command != "fit" and (run_dir / "ledger").exists() else "metrics.csv"


def keep_old_logs(run_dir: Path, *, with_ledger: bool, log: str = "metrics.csv") -> None:
    """Move aside what an earlier run logged in a folder that another one starts in."""
    if not is_first_process():
        return
    for name in (log, "ledger", "data.json") if with_ledger else (log,):
        if (run_dir / name).exists():
            (run_dir / name).rename(free_name(run_dir / name))


def _check_name(name: str) -> None:
    if Path(name).name != name or name in ("", ".."):
        raise InputError(f"name: {name!r}: expected a plain folder name; use --run_dir for a folder elsewhere")
    if (num_bytes := len(os.fsencode(name))) > MAX_NAME_BYTES:
        raise InputError(
            f"name: '{name[:20]}...': expected at most {MAX_NAME_BYTES} bytes, found {num_bytes}; choose a shorter one"
        )
