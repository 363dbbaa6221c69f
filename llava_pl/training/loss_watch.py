"""A loss that means nothing is noticed before it reaches the weights.

In: the loss of each micro batch. Out: a warning where nothing was supervised, and the end of a run whose loss is none.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from llava_pl.types import Batch, InputError


class LossWatch:
    """Looks at every loss of a run, on each rank at its own."""

    def __init__(self) -> None:
        self._num_unsupervised = 0

    def check(self, loss: Tensor, batch: Batch, *, step: int) -> None:
        """Warn of a batch that supervises nothing.

        Args:
            loss: Of a micro batch, float scalar.
            batch: The micro batch.
            step: Optimizer steps that are done.

        Raises:
            InputError: The loss is NaN or infinite.
        """
        ids = ", ".join(batch["ids"])
        if batch["num_supervised"] == 0:
            self._num_unsupervised += 1
            warnings.warn(
                f"batch of samples {ids} supervises nothing ({self._num_unsupervised} such batches so far); it adds a "
                "zero to the loss",
                stacklevel=2,
            )
        if not torch.isfinite(loss):
            raise InputError(
                f"train/loss is {loss.item()} at step {step} on samples {ids}; training stops before it can spoil the "
                "weights. Lower the learning rate, or look at these samples"
            )
