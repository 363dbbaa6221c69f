"""Writes down which samples each optimizer step learned from (see `ledger_file.py`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from llava_pl.ledger_file import Plan, add_segment, cut_ledger, encode_entry, ledger_path
from llava_pl.training.schedule import is_step_complete
from llava_pl.types import Batch


class Ledger(Callback):
    """Keeps the ledger of a run, a file for each rank; a run may go on with more or fewer ranks.

    It is on disk before a checkpoint is, so that a kill loses no step that a checkpoint has; a resumed run cuts off the
    steps that it will take again.

    Args:
        run_dir: Folder of the run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self._run_dir = Path(run_dir)
        self._file: BinaryIO | None = None
        self._pending: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file of this rank where the run goes on."""
        if getattr(trainer, "fast_dev_run", False):
            return
        path = ledger_path(self._run_dir, trainer.global_rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_ledger(self._run_dir, trainer.global_step, rank=trainer.global_rank, world_size=trainer.world_size)
        self._file = path.open("ab")
        self._pending = []
        loader: Any = trainer.train_dataloader
        if trainer.is_global_zero and hasattr(loader, "dataset"):
            before = Plan.read(self._run_dir)
            plan = Plan(
                num_samples=len(loader.dataset),
                is_cut_short=trainer.num_training_batches < len(loader),
                segments=add_segment(before.segments if before else (), trainer.global_step, trainer.world_size),
            )
            plan.write(self._run_dir)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Note the samples of a micro batch, and at the end of a step write them."""
        if self._file is None or "indices" not in batch:
            return
        self._pending += batch["indices"]
        if is_step_complete(trainer):
            self._file.write(encode_entry(trainer.global_step - 1, trainer.current_epoch, self._pending))
            self._pending = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Hand what was written to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the file: what a failing run learned from is worth knowing."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
