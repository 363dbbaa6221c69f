"""What became of a run: ``state.json`` in its folder, which a run writes when it starts and when it ends.

In: what the run says of itself. Out: a word for its state that holds after ``kill -9`` as well: a run whose process is
gone cannot have written its end. Nothing that takes long to import is needed here.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from llava_pl.types import InputError
from llava_pl.whole_file import whole_file

NAME = "state.json"
Status = Literal["running", "finished", "interrupted", "failed"]
State = Literal["running", "finished", "interrupted", "failed", "killed", "unknown"]
MOST_REASON = 300
"""Letters of an error that are kept."""

CLOCK_SECONDS = 60.0
"""By how much two readings of when a process started may differ: the system counts it from a clock that is set."""


@dataclass(frozen=True, slots=True)
class RunState:
    """A start of a run, and how it ended.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        words: What the run was started with.
        cwd: Where.
        run_dir: Its folder, as it was given there.
        status: What it last said of itself.
        started: When, in seconds since 1970.
        host: On which machine.
        pid: As which process: that of the first rank.
        process_started: When that process started, by the system's clock.
        stage: `align` or `finetune`, of a model.
        num_starts: How often, this time included.
        total_steps: Optimizer steps that it is to take, None before that is known and of an evaluation.
        step: Optimizer steps that it had taken when it ended.
        ended: When.
        reason: Why, unless it was finished.
        launcher: What started its processes beside each other, `torchrun` or `srun` with their options, if one did.
    """

    command: str
    words: list[str]
    cwd: str
    run_dir: str
    status: Status
    started: float
    host: str
    pid: int
    process_started: float
    stage: str | None = None
    num_starts: int = 1
    total_steps: int | None = None
    step: int | None = None
    ended: float | None = None
    reason: str | None = None
    launcher: list[str] = field(default_factory=list)


def new_state(
    command: str, words: list[str], run_dir: Path, stage: str | None, launcher: Sequence[str] = ()
) -> RunState:
    """Return the state of a run that this process starts."""
    import psutil

    process = psutil.Process()
    return RunState(
        command=command,
        words=words,
        cwd=str(Path.cwd()),
        run_dir=str(run_dir),
        status="running",
        started=time.time(),
        host=socket.gethostname(),
        pid=process.pid,
        process_started=process.create_time(),
        stage=stage,
        launcher=list(launcher),
    )


def read_state(run_dir: Path) -> RunState | None:
    """Return what a run has said of itself, None if it has not.

    Raises:
        InputError: The file is damaged.
    """
    path = run_dir / NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {each.name for each in fields(RunState)}  # a newer version may say more
        state = RunState(**{name: value for name, value in content.items() if name in known})
        if not all(_fits(getattr(state, name), kind) for name, kind in get_type_hints(RunState).items()):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "damaged"
        raise InputError(f"{path}: {reason}, expected what a run wrote there; move it away") from error
    return state


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401  an annotation
    """Return whether a value that JSON held is of a kind, as a field of `RunState` says it."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return value in inner
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if inner:
        return any(_fits(value, each) for each in inner)
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if isinstance(value, str):
        return kind is str and b"\0" not in os.fsencode(value)  # the system takes it for a path
    return type(value) is kind


def write_state(run_dir: Path, state: RunState) -> None:
    """Write the state of a run, whole or not at all."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with whole_file(run_dir / NAME) as part:
        part.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")


def find_state(state: RunState, run_dir: Path) -> State:
    """Return the word for what became of a run: what it said, unless its process is gone or out of sight.

    Args:
        state: What it said.
        run_dir: Where that was found; the process at work in another folder is out of sight in a copy.
    """
    if state.status != "running":
        return state.status
    if state.host != socket.gethostname():
        return "unknown"
    import psutil

    try:
        started = psutil.Process(state.pid).create_time()
        is_zombie = psutil.Process(state.pid).status() == psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):
        return "killed"
    if abs(started - state.process_started) > CLOCK_SECONDS or is_zombie:
        return "killed"
    return "unknown" if is_copy(state, run_dir) else "running"


def is_copy(state: RunState, run_dir: Path) -> bool:
    """Return whether the run which a folder's record speaks of has another folder; one that was moved is its own."""
    try:
        return not Path(state.cwd, state.run_dir).samefile(run_dir)
    except OSError:
        return False


def describe_end(error: BaseException | None) -> tuple[Status, str | None]:
    r"""Return how a run ended, and why.

    Args:
        error: What it raised, if anything.

    >>> describe_end(SystemExit(143)), describe_end(KeyboardInterrupt()), describe_end(ValueError("a\nb"))
    (('interrupted', 'SIGTERM'), ('interrupted', 'Ctrl-C'), ('failed', 'ValueError: a b'))
    """
    if error is None:
        return "finished", None
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return "interrupted", "Ctrl-C"  # Lightning makes status 1 of it
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        try:
            return "interrupted", signal.Signals(error.code - 128).name
        except ValueError:
            pass
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "failed", reason if len(reason) <= MOST_REASON else f"{reason[:MOST_REASON]}..."


def resume_command(words: Sequence[str], run_dir: Path, launcher: Sequence[str] = ()) -> str:
    """Return what a user types to go on with a run.

    Args:
        words: What the run was started with.
        run_dir: Its folder.
        launcher: What started its processes.

    >>> resume_command(["fit", "--config", "a.yaml", "--ckpt_path=x.ckpt"], Path("runs/run/now"))
    'llava-pl fit --config a.yaml --run_dir runs/run/now --ckpt_path last'
    """
    kept, is_value = [], False
    for word in words:
        option, equals, _ = word.partition("=")
        if option in ("--ckpt_path", "--run_dir"):
            is_value = not equals
        elif is_value:
            is_value = False
        else:
            kept.append(word)
    return shlex.join([*launcher, "llava-pl", *kept, "--run_dir", str(run_dir), "--ckpt_path", "last"])
