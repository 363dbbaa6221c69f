"""What a run writes of itself beside its log: how it stands, and its curves when it ends.

In: the trainer's beginning and end, however it ends. Out: ``state.json``, ``curves.png`` and ``curves.html`` in the
folder of the run, and data and checkpoint in Weights & Biases. None of these can end a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from errno import EACCES, EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import TypeVar

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from llava_pl.curves.draw import draw_run, name_run
from llava_pl.curves.metrics import LOG
from llava_pl.run_state import RunState, describe_end, new_state, read_state, write_state
from llava_pl.training.processes import find_launcher, is_first_process
from llava_pl.training.schedule import count_optimizer_steps
from llava_pl.training.wandb_record import log_checkpoint, log_data
from llava_pl.types import InputError

T = TypeVar("T")


class RunRecord(Callback):
    """Keeps the record of a run, on its first rank.

    An evaluation in the folder of a run that trained leaves that run's record alone; a run that ends before it goes on
    leaves the record of its earlier start.

    Args:
        run_dir: Folder of the run.
        command: What is run.
        words: What it was started with.
        stage: Of the model.
        is_continued: The run goes on.
    """

    def __init__(self, run_dir: Path, command: str, words: Sequence[str], stage: str, *, is_continued: bool) -> None:
        self._run_dir = run_dir
        self._state = new_state(command, list(words), run_dir, stage, find_launcher())
        self._is_continued = is_continued
        self._is_kept = self._has_begun = False

    @contextmanager
    def keep(self, trainer: Trainer) -> Iterator[None]:
        """Write down that the run has started, and at the end of the block how it ended.

        Args:
            trainer: Of the run.
        """
        before = self._try(lambda: read_state(self._run_dir))
        is_fit = self._state.command == "fit"
        is_others = not is_fit and ((before and before.command == "fit") or (self._run_dir / "ledger").exists())
        self._is_kept = is_first_process() and not is_others and not getattr(trainer, "fast_dev_run", False)
        if self._is_continued and before is not None:
            self._state = replace(self._state, num_starts=before.num_starts + 1, total_steps=before.total_steps)
        self._write(self._state)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            status, reason = describe_end(error)
            step = trainer.global_step if is_fit else None
            after = replace(self._state, status=status, reason=reason, ended=time.time(), step=step)
            is_early = self._is_continued and not self._has_begun
            if is_early and before is not None and (error is not None or before.status == "finished"):
                after = before  # it could not go on, or nothing was left to do: what was said of the run still holds
            self._write(after)
            if self._is_kept and is_fit:
                self._show(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down how many steps there will be, and tell Weights & Biases of the data."""
        self._has_begun = True
        if trainer.is_global_zero:
            self._state = replace(self._state, total_steps=count_optimizer_steps(trainer))
            self._write(self._state)
            self._try(lambda: log_data(trainer))

    def _write(self, state: RunState) -> None:
        if self._is_kept:
            self._try(lambda: write_state(self._run_dir, state))

    def _show(self, trainer: Trainer) -> None:
        """Draw the curves, and tell Weights & Biases where the last checkpoint is."""
        if (self._run_dir / LOG).exists():
            self._try(lambda: draw_run(self._run_dir, name_run(self._run_dir, self._state.stage)))
        self._try(lambda: log_checkpoint(trainer, self._run_dir / "checkpoints" / "last.ckpt"))

    def _try(self, act: Callable[[], T]) -> T | None:
        """Return what an act returns; where it fails, say so in a line: the run is worth more than its pictures."""
        try:
            return act()
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT, EROFS, EACCES):  # one thing of many files
                message = f"{self._run_dir}: {error.strerror}"
            else:
                message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            rank_zero_warn(f"what this run tells of itself is not whole ({' '.join(message.split())})")
            return None
