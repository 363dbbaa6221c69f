"""A loss that means nothing is noticed before it reaches the weights, or at least a checkpoint.

In: the loss of each micro batch. Out: a warning where nothing was supervised, and the end of a run whose loss is none.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from llava_pl.types import Batch, InputError


class LossWatch(Callback):
    """Looks at every loss of a run, on each rank at its own.

    On a CPU at once. A GPU's is copied on the way and looked at with the next one, or before a checkpoint is written:
    whoever read it at once would wait until the GPU has done all that is queued, and queue nothing ahead.
    """

    def __init__(self) -> None:
        self._num_unsupervised = 0
        self._last: tuple[Tensor, torch.cuda.Event | None, str] | None = None  # not looked at yet

    def check(self, loss: Tensor, batch: Batch, *, step: int) -> None:
        """Warn of a batch that supervises nothing.

        Args:
            loss: Of a micro batch, float scalar.
            batch: The micro batch.
            step: Optimizer steps that are done.

        Raises:
            InputError: The loss is NaN or infinite, or that of the micro batch before it.
        """
        ids = ", ".join(batch["ids"])
        if batch["num_supervised"] == 0:
            self._num_unsupervised += 1
            warnings.warn(
                f"batch of samples {ids} supervises nothing ({self._num_unsupervised} such batches so far); it adds a "
                "zero to the loss",
                stacklevel=2,
            )
        self.look()
        value, arrived = loss.detach(), None
        if loss.is_cuda:
            value = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self._last = value, arrived, f"step {step} on samples {ids}"
        if arrived is None:
            self.look()

    def look(self) -> None:
        """Look at the last loss, if nobody has.

        Raises:
            InputError: It is NaN or infinite.
        """
        if self._last is None:
            return
        (value, arrived, place), self._last = self._last, None
        if arrived is not None:
            arrived.synchronize()
        if not torch.isfinite(value):
            raise InputError(
                f"train/loss is {value.item()} at {place}; training stops before it can spoil "
                f"{'the weights' if arrived is None else 'a checkpoint'}. Lower the learning rate, or look at these "
                "samples"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before anything is written."""
        self.look()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the very last."""
        self.look()
