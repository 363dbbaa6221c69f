"""Where a run stands in its optimizer steps: how many it will take, and whether one is complete."""

from __future__ import annotations

from math import ceil
from typing import Any

from lightning import Trainer

from llava_pl.types import InputError


def count_epoch_batches(trainer: Trainer) -> int | None:
    """Return the micro batches of an epoch per device, or None where the data module cannot count them."""
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "count_train_batches"):
        return None
    num_batches = data.count_train_batches(trainer.world_size)
    limit = trainer.limit_train_batches
    return min(num_batches, limit) if isinstance(limit, int) else int(num_batches * (limit or 0))


def count_optimizer_steps(trainer: Trainer) -> int:
    """Return the optimizer steps of the whole run, from the data module's own count.

    Never from ``trainer.estimated_stepping_batches``: reading it builds the loader early, and Lightning then forgets
    the position within the epoch when a run is resumed.

    Raises:
        InputError: The run ends neither by steps nor by epochs, or the data module cannot count.
    """
    bounds = []
    if trainer.max_steps >= 0:
        bounds.append(trainer.max_steps)
    num_batches = count_epoch_batches(trainer)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and num_batches is not None:
        bounds.append(trainer.max_epochs * ceil(num_batches / trainer.accumulate_grad_batches))
    if not bounds:
        raise InputError(
            "trainer: the learning-rate schedule needs the number of steps; set trainer.max_steps, or "
            "trainer.max_epochs with a data module that has count_train_batches"
        )
    return max(1, min(bounds))


def is_step_complete(trainer: Trainer) -> bool:
    """Return whether the micro batch that was just trained on was the last of its optimizer step.

    Lightning has no public name for it; every other file asks here.
    """
    return not trainer.fit_loop.epoch_loop._should_accumulate()
