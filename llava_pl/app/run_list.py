"""What the folders of runs tell: the state of each, how far it got, its last numbers, and how to go on.

In: a folder. Out: a `Run` for each run beneath it, the newest first. No torch is imported, and of a long log only the
end is looked through.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pl.curves.metrics import LOG, read_last
from llava_pl.run_state import NAME, RunState, State, find_state, is_copy, read_state, resume_command
from llava_pl.types import InputError

DEPTH = 3
"""How far below a folder its runs may lie: runs/NAME/TIME is two."""

MARKS = (NAME, LOG, "ledger", "environment.json")
"""What a folder of a run has, one of them at least."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its folder tells of it.

    Args:
        folder: Where it lies.
        command: What was run, None where nobody knows.
        stage: Of the model.
        state: What became of it.
        reason: Why it ended.
        started: When, in seconds since 1970.
        written: When its log, its state or a checkpoint was last written.
        step: Optimizer steps taken, as far as they are written down; None of an evaluation.
        total_steps: Those that it is to take.
        metrics: The last losses and scores.
        num_bytes: Size of all its files.
        has_checkpoint: Whether there is one to go on with.
        resume: What to type to go on, None where there is nothing to go on with.
        damage: What of it could not be read.
    """

    folder: Path
    command: str | None
    stage: str | None
    state: State
    reason: str | None
    started: float
    written: float
    step: int | None
    total_steps: int | None
    metrics: dict[str, float]
    num_bytes: int
    has_checkpoint: bool
    resume: str | None
    damage: tuple[str, ...]


def find_runs(*roots: Path) -> list[Run]:
    """Return the runs in folders, or those that they are, the newest first, each once."""
    found = sorted((folder for root in roots for folder in _walk(root, DEPTH)), key=_is_behind_link)
    return sorted(map(describe_run, once(found)), key=lambda run: run.started, reverse=True)


def once(folders: Iterable[Path]) -> list[Path]:
    """Return folders by the first of their names."""
    names: dict[str, Path] = {}
    for folder in folders:
        names.setdefault(os.path.realpath(folder), folder)  # unlike `resolve`, of links in a circle too
    return list(names.values())


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run."""
    return any((folder / mark).exists() for mark in MARKS)


def describe_run(folder: Path) -> Run:
    """Return what the folder of a run tells."""
    damage = []
    state: RunState | None = None
    last: int = -1
    metrics: dict[str, float] = {}
    try:
        state = read_state(folder)
    except InputError as error:
        damage.append(str(error))
    config = {} if state else _read_config(folder / "config.yaml")
    if (folder / LOG).exists():
        try:
            last, metrics = read_last(folder / LOG)
        except InputError as error:
            damage.append(str(error))
    trains = state.command == "fit" if state else (folder / "ledger").exists()
    saved = [int(found[1]) for path in folder.glob("checkpoints/*.ckpt") if (found := _STEP.fullmatch(path.name))]
    step = max((state and state.step) or 0, last + 1, *saved, 0) if trains else None
    total = state.total_steps if state else config.get("max_steps")
    word = _guess_state(step, total, metrics) if state is None else find_state(state, folder)
    times = [path.stat().st_mtime for path in _logs(folder)]
    has_checkpoint = (folder / "checkpoints" / "last.ckpt").exists()
    can_go_on = trains and has_checkpoint and word not in ("running", "finished")
    return Run(
        folder=folder,
        command=state.command if state else "fit" if trains else None,
        stage=state.stage if state else config.get("stage"),
        state=word,
        reason=_reason(state, word),
        started=state.started if state else min(times),
        written=max(times),
        step=step,
        total_steps=total,
        metrics=metrics,
        num_bytes=_size(folder),
        has_checkpoint=has_checkpoint,
        resume=_resume(folder, state) if can_go_on else None,
        damage=tuple(damage),
    )


_STEP = re.compile(r"step=(\d+)\.ckpt")


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    try:
        inner = [Path(entry) for entry in os.scandir(folder) if _is_folder(entry) and entry.name[0] != "."]
    except (FileNotFoundError, PermissionError):
        return  # not there yet, or not ours
    for each in inner:
        yield from _walk(each, depth - 1)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads to itself, or where we may not look


def _is_behind_link(folder: Path) -> bool:
    return folder.absolute() != folder.resolve()


def _read_config(path: Path) -> dict[str, Any]:
    """Return stage and steps of a run of an older version, as far as its configuration says them.

    The file is what the parser wrote: two spaces for a group, no quotes. Reading all of it takes half a second.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    stage = re.search(r"^model:\n  stage: (\w+)$", text, flags=re.MULTILINE)
    steps = re.search(r"^  max_steps: (\d+)$", text, flags=re.MULTILINE)
    return {"stage": stage[1] if stage else None, "max_steps": int(steps[1]) if steps else None}


def _guess_state(step: int | None, total: int | None, metrics: dict[str, float]) -> State:
    """Return what became of a run of an older version, which did not say it."""
    if step is None:
        return "finished" if metrics else "unknown"
    return "finished" if total is not None and step >= total else "unknown"


def _reason(state: RunState | None, word: State) -> str | None:
    if state is not None and word == "unknown":
        if state.host == socket.gethostname():
            return f"a copy of {Path(state.cwd, state.run_dir)}, where the run is at work"
        return f"it runs or was killed on {state.host}, where this can be told"
    return state.reason if state else None


def _resume(folder: Path, state: RunState | None) -> str:
    """Return what to type here to go on with a run."""
    if state is None:
        words = ["llava-pl", "fit", "--config", str(folder / "config.yaml"), "--run_dir", str(folder)]
        return shlex.join([*words, "--ckpt_path", "last"])
    own = Path(state.cwd, state.run_dir)
    run_dir = Path(state.run_dir) if own.exists() and not is_copy(state, folder) else folder.resolve()
    command = resume_command(state.words, run_dir, state.launcher)
    is_here = Path(state.cwd) == Path.cwd()  # what was typed may name files from there
    return command if is_here else f"cd {shlex.quote(state.cwd)} && {command}"


def _logs(folder: Path) -> Iterator[Path]:
    """Yield what a run writes from its start on; the folder, where it has written nothing yet."""
    own = (folder / LOG, folder / NAME, folder / "config.yaml")
    yield from (path for path in own if path.exists()) if any(map(Path.exists, own)) else (folder,)
    yield from (path for path in folder.glob("checkpoints/*.ckpt") if not path.is_symlink())


def _size(folder: Path) -> int:
    """Return how many bytes the files below a folder have; what is deleted meanwhile has none."""
    total = 0
    try:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                total += _size(Path(entry))
            elif not entry.is_symlink():
                total += entry.stat().st_size
    except OSError:
        pass
    return total
