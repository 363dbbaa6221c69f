"""Attention within each of several sequences that share a row, without a mask over the row.

Registered with transformers under a name of its own (`PACKED_SDPA`), and equal to its "sdpa" in every other case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "llava_pl_packed_sdpa"
MAX_HEAD_DIM = 192
"""Beyond it flash attention cannot go backward on every GPU that it runs on."""


def sequence_ends(lengths: Sequence[int], *, pin_memory: bool = False) -> Tensor:
    """Return where the sequences of a packed row begin and end, int32 ``(sequences + 1,)``, in host memory.

    >>> sequence_ends([5, 1, 7]).tolist()
    [0, 5, 6, 13]
    """
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, pin_memory=pin_memory)


@dataclass
class PlainLengths:
    """The lengths of sequences as numbers, in an object that a compiled layer passes on without a look.

    For each new list of numbers it would be compiled anew.
    """

    each: Sequence[int]


def describe_packing(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Return what `packed_sdpa` is to know of a packed row, made once for all layers.

    A compiled layer looks at the tensors and the number alone.

    Args:
        lengths: Positions of each sequence.
        device: Where the row lies.
    """
    ends = sequence_ends(lengths, pin_memory=device.type == "cuda")
    # A plain copy to a GPU would wait for all that the GPU still has to do.
    on_device = ends.to(device, non_blocking=True) if _has_varlen(device) else None
    longest, plain = max(lengths), PlainLengths(lengths)
    return {"plain_lengths": plain, "host_ends": ends, "sequence_ends": on_device, "longest_sequence": longest}


def packed_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plain_lengths: PlainLengths | None = None,
    host_ends: Tensor | None = None,
    sequence_ends: Tensor | None = None,
    longest_sequence: int = 0,
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
        plain_lengths: Positions of each sequence of a single packed row; None when unpacked.
        host_ends: Of a packed row, as `sequence_ends` makes it.
        sequence_ends: The same on the device; None never to use `varlen_attn`.
        longest_sequence: Positions of the longest sequence.
        dropout: Share of the attention weights that are dropped.
        **options: As for transformers' "sdpa".
    """
    if plain_lengths is None or host_ends is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, **options)
    if sequence_ends is not None and dropout == 0 and _takes_varlen(query):
        dtype = _compute_dtype(query)
        q, k, v = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))  # (T, heads, D / heads)
        output = varlen_attn(
            q,
            k,
            v,
            sequence_ends,
            sequence_ends,
            longest_sequence,
            longest_sequence,
            scale=options.get("scaling"),
            window_size=(-1, 0),  # each position sees itself and all before it
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return cast("Tensor", output)[None], None
    if torch.compiler.is_compiling() and dropout == 0:
        dtype = _compute_dtype(query)
        each = [tensor.to(dtype) for tensor in (query, key, value)]
        return attend_each(*each, host_ends, cast("float | None", options.get("scaling"))), None
    queries, keys, values = (torch.split(tensor, list(plain_lengths.each), dim=2) for tensor in (query, key, value))
    outputs = [
        sdpa_attention_forward(module, q, k, v, None, dropout=dropout, **options)[0]
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


def _compute_dtype(query: Tensor) -> torch.dtype:
    """Return what torch's ordinary attention would compute in: autocast knows that one, but not `varlen_attn`."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _attend_each(query: Tensor, key: Tensor, value: Tensor, host_ends: Tensor, scale: float | None) -> Tensor:
    queries, keys, values = (torch.split(t, host_ends.diff().tolist(), dim=2) for t in (query, key, value))
    is_grouped = query.shape[1] != key.shape[1]
    outputs = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=is_grouped)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


@torch.library.custom_op("llava_pl::attend_each", mutates_args=())
def attend_each(query: Tensor, key: Tensor, value: Tensor, host_ends: Tensor, scale: float | None) -> Tensor:
    """Return the attention within each sequence, ``(1, T, heads, D / heads)``: one operation for a compiled layer.

    In place of the loop, whose rounds the compiler would count. The gradient makes the attention again, as nothing but
    the arguments is kept: on a CPU, and on a GPU in float32, where there is no `varlen_attn`.

    Args:
        query: float ``(1, heads, T, D / heads)``.
        key: float ``(1, key heads, T, D / heads)``.
        value: float ``(1, key heads, T, D / heads)``.
        host_ends: As `sequence_ends` makes it.
        scale: What products are multiplied by; the root of the width of a head divides them when None.
    """
    return _attend_each(query, key, value, host_ends, scale)


@torch.library.custom_op("llava_pl::attend_each_backward", mutates_args=())
def attend_each_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, host_ends: Tensor, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    # Within an operation torch records no gradients, but for its functional form.
    go_back = torch.func.vjp(lambda q, k, v: _attend_each(q, k, v, host_ends, scale), query, key, value)[1]
    q, k, v = cast("tuple[Tensor, ...]", go_back(gradient))
    return q.contiguous(), k.contiguous(), v.contiguous()


@attend_each.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, host_ends: Tensor, scale: float | None) -> Tensor:
    rows, heads, length, width = query.shape
    return query.new_empty(rows, length, heads, width)


@attend_each_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, host_ends: Tensor, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401  torch's own protocol
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _go_back(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    return (*attend_each_backward(gradient, *ctx.saved_tensors, ctx.scale), None, None)


attend_each.register_autograd(_go_back, setup_context=_keep)


def _takes_varlen(query: Tensor) -> bool:
    """Return whether `varlen_attn` can do attention of such heads, whose width is that of keys and values."""
    width = query.shape[-1]
    return width % 8 == 0 and width <= MAX_HEAD_DIM and _compute_dtype(query) in (torch.bfloat16, torch.float16)


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
