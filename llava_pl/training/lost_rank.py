"""What the others say when one rank has ended: where the run stood, in one line.

In: the error of a rank that waited for another. Out: a line that names rank, step and samples; without it each of them
would show how deep in torch it waited.
"""

from __future__ import annotations

import traceback
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed import DistError

from llava_pl.training.shard_writing import RANK_IS_LOST
from llava_pl.types import Batch, InputError


class NameLostRank(Callback):
    """Makes one line of the error of a rank that another one does not answer any more."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run of this process."""
        RANK_IS_LOST.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Remember what this rank is at."""
        self._ids = batch["ids"]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say it.

        Raises:
            InputError: The exception is that of a rank that waited.
        """
        if trainer.world_size == 1 or not is_lost_rank(exception):
            return
        RANK_IS_LOST.set()  # otherwise the thread that waits for its file would keep this process for half an hour
        at = f"at step {trainer.global_step}" + (f", samples {', '.join(self._ids)}" if self._ids else "")
        raise InputError(
            f"rank {trainer.global_rank} of {trainer.world_size}: another rank has ended or does not answer, {at}; its "
            "own message stands above, unless it was killed; go on with --ckpt_path last"
        ) from exception


def is_lost_rank(exception: BaseException) -> bool:
    """Whether an error is that of torch's collectives: they fail where a rank waits for another that is gone."""
    if isinstance(exception, DistError):
        return True
    frames: Any = [frame for frame, _ in traceback.walk_tb(exception.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__", "")) if frames else ""
    # Tensors in pieces raise errors of their own, which have nothing to do with another rank.
    is_within = module.startswith("torch.distributed.") and not module.startswith("torch.distributed.tensor.")
    return isinstance(exception, RuntimeError) and (is_within or "gloo/transport" in str(exception))
