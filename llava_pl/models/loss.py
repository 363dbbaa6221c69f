"""Hidden states to loss.

In: hidden states ``(B, T, D)`` and labels ``(B, T)``. Out: a `LossOutput`, the sum over the supervised tokens and their
number, which the training loop divides by the number in the whole global batch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from llava_pl.types import IGNORE_INDEX, LossOutput


def supervised_loss(hidden: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]) -> LossOutput:
    """Return the cross entropy of the supervised tokens, each predicted from the position before it.

    The head runs on the supervised rows alone: at LLaVA's 2.5 to 13 % supervised positions the logits of all rows would
    be the largest tensor of the step. Logits are compared in float32.

    Args:
        hidden: float ``(B, T, D)``, last hidden states.
        labels: int64 ``(B, T)``; IGNORE_INDEX where nothing is supervised. A row's first position has no predecessor
            and is never counted.
        head: Maps ``(M, D)`` to logits ``(M, V)``.
    """
    targets = labels[:, 1:]
    is_supervised = targets != IGNORE_INDEX
    logits = head(hidden[:, :-1][is_supervised])
    # The sum over no rows is a zero that can be differentiated, not the NaN that a mean would be.
    total = F.cross_entropy(logits.float(), targets[is_supervised], reduction="sum")
    return LossOutput(total=total, num_supervised=is_supervised.sum())
