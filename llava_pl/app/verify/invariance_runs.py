"""A plan to runs on disk: each is a `llava-pl fit` of its own, in a fresh process and a folder of its own.

In: the plan and the words of the command line. Out: the folder of each run, with its log, ledger and checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from llava_pl.app.verify.invariance_splits import Split
from llava_pl.types import InputError

if TYPE_CHECKING:
    from llava_pl.app.verify.invariance_plan import InvariancePlan

LAUNCHED = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
"""What a launcher or an earlier run may have left in the environment, of which a run would take itself for a part."""

COMMAND = (sys.executable, "-m", "llava_pl")
SECONDS_TO_END = 10


def run_split(words: Sequence[str], plan: InvariancePlan, split: Split, workspace: Path) -> Path:
    """Run `fit` under a split and return its folder; what it says goes to ``output.txt`` there.

    Args:
        words: Options of `llava-pl fit`.
        plan: What the run changes in them.
        split: The split.
        workspace: Where the folder is made.

    Raises:
        InputError: The run failed.
    """
    run_dir = workspace / split.folder
    run_dir.mkdir(parents=True)
    overlay, output = run_dir / "verify.yaml", run_dir / "output.txt"
    overlay.write_text(yaml.safe_dump(plan.settings(split, run_dir)))
    status = _launch(["fit", *words, "--config", str(overlay)], output)
    if status:
        raise InputError(f"verify: the run of {split} ended with status {status}: {_last_line(output)}; see {output}")
    return run_dir


def _launch(words: Sequence[str], output: Path) -> int:
    """Run a command of `llava-pl` in a process of its own and return its exit status."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    with output.open("wb") as file:
        process = subprocess.Popen([*COMMAND, *words], stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            return process.wait()
        except BaseException:  # Ctrl-C, SIGTERM: the run and its ranks end with us
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(output: Path) -> str:
    """Return what a run said of its end: the program's own line, or the last one."""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("llava-pl: error: ") for line in lines if line.startswith("llava-pl: error: ")]
    return (own or lines or ["it said nothing"])[-1]
