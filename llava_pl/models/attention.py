"""Attention within each of several sequences that share a row, without a mask over the row.

Registered with transformers under a name of its own (`PACKED_SDPA`), and equal to its "sdpa" in every other case.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "llava_pl_packed_sdpa"
MAX_HEAD_DIM = 192
"""Beyond it flash attention cannot go backward on every GPU that it runs on."""


def sequence_ends(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return where the sequences of a packed row begin and end, int32 ``(sequences + 1,)``.

    A plain copy to a GPU would wait for all that the GPU still has to do.

    >>> sequence_ends([5, 1, 7], torch.device("cpu")).tolist()
    [0, 5, 6, 13]
    """
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, pin_memory=device.type == "cuda")
    return ends.to(device, non_blocking=True)


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequence_lengths: Sequence[int] | None = None,
    sequence_ends: Tensor | None = None,
    dropout: float = 0.0,
    **options: Any,  # noqa: ANN401  as for transformers' own
) -> tuple[Tensor, None]:
    """Return the attention output ``(B, T, heads, D / heads)``.

    A packed row takes one call of torch's `varlen_attn` where that can do it, and otherwise a call of torch's ordinary
    attention for each sequence. A dense mask over the row, which transformers makes of restarted positions, would be
    quadratic in the row.

    Args:
        module: The attention layer.
        query: float ``(B, heads, T, D / heads)``.
        key: float ``(B, key heads, T, D / heads)``.
        value: float ``(B, key heads, T, D / heads)``.
        attention_mask: As transformers makes it; not looked at for a packed row.
        sequence_lengths: Positions of each sequence of a single packed row, which add up to T; None when unpacked.
        sequence_ends: The same as `sequence_ends` makes it, on the device; None never to use `varlen_attn`.
        dropout: Share of the attention weights that are dropped.
        **options: As for transformers' "sdpa".
    """
    if sequence_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **options)
    if sequence_ends is not None and dropout == 0 and _takes_varlen(query):
        dtype = _compute_dtype(query)
        q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))  # (T, heads, D / heads)
        longest = max(sequence_lengths)
        output = varlen_attn(
            q,
            k,
            v,
            sequence_ends,
            sequence_ends,
            longest,
            longest,
            scale=options.get("scaling"),
            window_size=(-1, 0),  # each position sees itself and all before it
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return cast("Tensor", output)[None], None
    queries, keys, values = (torch.split(tensor, list(sequence_lengths), dim=2) for tensor in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, q, k, v, None, dropout=dropout, **options)[0]
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def _compute_dtype(query: Tensor) -> torch.dtype:
    """Return what torch's ordinary attention would compute in: autocast knows that one, but not `varlen_attn`."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _takes_varlen(query: Tensor) -> bool:
    """Return whether `varlen_attn` can do attention of such heads, whose width is that of keys and values."""
    width = query.shape[-1]
    fits = width % 8 == 0 and width <= MAX_HEAD_DIM
    return fits and _has_varlen(query.device) and _compute_dtype(query) in (torch.bfloat16, torch.float16)


@cache
def _has_varlen(device: torch.device) -> bool:
    """Return whether `varlen_attn` runs on a device."""
    return (
        device.type == "cuda"
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


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
