"""One run of Weights & Biases for one run of ours, however often that is stopped and continued, on however many nodes.

In: the loggers of a run. Out: the same ones, which go on where wandb knows the run already.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

from llava_pl.training.processes import is_first_process


def continue_wandb_runs(loggers: Iterable[Logger], run_dir: Path, *, is_continued: bool) -> None:
    """Give wandb's loggers the id that is kept in ``wandb_id`` in a run's folder; an id that the user chose stays.

    Args:
        loggers: Those of the run, not yet in use.
        run_dir: Folder of the run.
        is_continued: The run goes on; a new one gets a new id.
    """
    mine = [each for each in loggers if isinstance(each, WandbLogger) and each.version is None]
    if not mine or "WANDB_RUN_ID" in os.environ or not is_first_process():
        return
    path = run_dir / "wandb_id"
    given = path.read_bytes() if is_continued and path.is_file() else b""
    found = re.fullmatch(rb"([0-9a-f]{8})\n", given)
    run_id = found[1].decode() if found else secrets.token_hex(4)
    if not found:
        run_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{run_id}\n")
    for logger in mine:
        # As its argument `id` does, which the saved configuration would hand on to other runs; it allows to resume.
        logger._id = logger._wandb_init["id"] = run_id
