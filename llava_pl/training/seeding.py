"""The random state of a step as a function of its number, so that a checkpoint need not hold any.

In: the run's seed. Out: seeded generators at the start of each micro batch.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from llava_pl.types import Batch


def step_seed(seed: int, rank: int, epoch: int, batch_idx: int) -> int:
    """Return the seed of a micro batch, the same on every machine and in every process.

    >>> step_seed(0, 0, 0, 0) == step_seed(0, 0, 0, 0) != step_seed(0, 0, 0, 1)
    True
    """
    text = f"{seed} {rank} {epoch} {batch_idx}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


class SeedSteps(Callback):
    """Seeds torch, numpy and random before each micro batch.

    Dropout is then the same whether a run got here in one go or was resumed, with any number of workers, and after a
    validation that drew numbers of its own. The generators of the whole world would otherwise have to be in each
    checkpoint; Lightning keeps none.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Seed the generators."""
        seed = step_seed(self._seed, trainer.global_rank, trainer.current_epoch, batch_idx)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
