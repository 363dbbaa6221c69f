"""Attention within each of several sequences that share a row, without a mask over the row.

Registered with transformers under a name of its own (`PACKED_SDPA`), and equal to its "sdpa" in every other case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "llava_pl_packed_sdpa"


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequence_lengths: Sequence[int] | None = None,
    **options: Any,  # noqa: ANN401  as for transformers' own
) -> tuple[Tensor, None]:
    """Return the attention output ``(B, T, heads, D / heads)``, one call of torch's attention for each sequence.

    A dense mask over the row, which transformers makes of restarted positions, would be quadratic in the row.

    Args:
        module: The attention layer.
        query: float ``(B, heads, T, D / heads)``.
        key: float ``(B, key heads, T, D / heads)``.
        value: float ``(B, key heads, T, D / heads)``.
        attention_mask: As transformers makes it; None for a packed row.
        sequence_lengths: Positions of each sequence of a single packed row, which add up to T; None when unpacked.
        **options: As for transformers' "sdpa".
    """
    if sequence_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    queries, keys, values = (torch.split(tensor, list(sequence_lengths), dim=2) for tensor in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, q, k, v, None, **options)[0]
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def packed_sdpa_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    **options: Any,  # noqa: ANN401  as for transformers' own
) -> Tensor | None:
    """Return the mask of transformers' "sdpa", and none where nothing is padded and every position sees all before it.

    Without padding a row is a single sequence, or it is packed and `packed_sdpa` knows where its sequences end.
    """
    if attention_mask is None and local_size is None and q_length == kv_length:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, local_size=local_size, **options)


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, packed_sdpa_mask)
