"""Hidden states to loss.

In: hidden states ``(B, T, D)`` and labels ``(B, T)``. Out: a `LossOutput`, the sum over the supervised tokens and their
number, which the training loop divides by the number in the whole global batch.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llava_pl.models.positions import find_positions
from llava_pl.types import IGNORE_INDEX, LossOutput

MAX_LOGITS = 2**27
"""Logits that are made at once: 512 MiB in float32, the rows of 4,096 supervised tokens of 32,768 words."""


def supervised_loss(
    hidden: Tensor,
    labels: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    num_supervised: int | None = None,
    max_rows: int | None = None,
) -> LossOutput:
    """Return the cross entropy of the supervised tokens, each predicted from the position before it.

    The head runs on the supervised rows alone: at LLaVA's 2.5 to 13 % supervised positions the logits of all rows would
    be the largest tensor of the step. More rows than ``max_rows`` go through it in chunks of equal size, whose logits
    are made again in the backward pass, so that those of one chunk are alive at a time. Logits are compared in float32.

    Args:
        hidden: float ``(B, T, D)``, last hidden states.
        labels: int64 ``(B, T)``; IGNORE_INDEX where nothing is supervised. A row's first position has no predecessor
            and is never counted.
        head: Maps ``(M, D)`` to logits ``(M, V)``.
        num_supervised: M, the supervised tokens, as the collator counts them; None to ask the labels, for which a
            device makes the host wait.
        max_rows: The most rows at once; None for any number.

    Raises:
        ValueError: Another number is supervised; on a device, an asynchronous assertion.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # of the position that predicts them
    is_supervised = targets != IGNORE_INDEX
    number = int(is_supervised.sum()) if num_supervised is None else num_supervised
    positions = find_positions(is_supervised, number, f"loss: {{}} supervised tokens in labels; expected {number}")
    rows, targets = hidden.flatten(0, 1).index_select(0, positions), targets.flatten().index_select(0, positions)

    def sum_up(rows: Tensor, targets: Tensor) -> Tensor:
        # The sum over no rows is a zero that can be differentiated, not the NaN that a mean would be.
        return F.cross_entropy(head(rows).float(), targets, reduction="sum")

    num_chunks = 1 if max_rows is None else ceil(number / max_rows)
    if num_chunks <= 1:
        return LossOutput(total=sum_up(rows, targets), num_supervised=is_supervised.sum())
    chunks = zip(rows.tensor_split(num_chunks), targets.tensor_split(num_chunks), strict=True)
    totals: list[Tensor] = [checkpoint(sum_up, *chunk, use_reentrant=False) for chunk in chunks]
    return LossOutput(total=sum(totals[1:], totals[0]), num_supervised=is_supervised.sum())
