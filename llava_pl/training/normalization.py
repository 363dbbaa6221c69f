"""From a micro batch's loss to the number that backward runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, distributed

from llava_pl.types import Batch, InputError, LossOutput

LossNormalization = Literal["global", "micro_batch"]


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a value over all ranks, in its place.

    Lightning's own reduction puts a barrier before it, at which the hosts wait for all that their devices still have to
    do; this one is queued behind it.
    """
    if distributed.is_initialized():
        distributed.all_reduce(value)
    return value


def normalize_loss(
    output: LossOutput,
    batch: Batch,
    *,
    normalization: LossNormalization,
    num_micro_batches: int,
    world_size: int,
    sum_over_ranks: Callable[[int], Tensor],
) -> Tensor:
    """Return the scalar that backward runs on.

    "global": every supervised token of the global batch weighs the same, whatever micro batch or rank it fell into.
    With S_ra the loss sum of micro batch a on rank r, and n the supervised tokens of the global batch, the loss is
    (sum over r, a of S_ra) / n. Lightning divides what we return by A micro batches, and the gradient mean over R ranks
    divides by R, so each micro batch returns S_ra * A * R / n. Without any supervised token it is a zero.

    "micro_batch": the mean over the micro batch's own tokens, as the original (a mean of means: a short answer weighs
    more beside another short one than beside a long one).

    Args:
        output: Of this micro batch.
        batch: Of this micro batch; "global" needs its `num_step_supervised`.
        normalization: What to divide by.
        num_micro_batches: A, as Lightning divides.
        world_size: R.
        sum_over_ranks: Adds up an integer over all ranks.

    Raises:
        InputError: "global" with accumulation, and a loader that does not read ahead.
    """
    if normalization == "micro_batch":
        return output.mean
    if "num_step_supervised" in batch:
        num_supervised = batch["num_step_supervised"]
    elif num_micro_batches == 1:
        num_supervised = batch["num_supervised"]
    else:
        raise InputError(
            "loss_normalization: 'global' with accumulation needs batches with 'num_step_supervised'; use the data "
            "modules of llava_pl (or their StepLoader), or choose 'micro_batch'"
        )
    return output.total * (num_micro_batches * world_size / sum_over_ranks(num_supervised).clamp(min=1))
