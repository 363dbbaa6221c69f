"""Less memory for more work: layers whose activations are computed again when the gradient asks for them.

In: a model of transformers. Out: the same model with the same results; what its layers keep for the backward pass is
their input ("full"), or their input and the results of their matrix products ("selective").
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from llava_pl.models import attention  # noqa: F401  registers an operation that is named below
from llava_pl.types import InputError

GradientCheckpointing = Literal["none", "selective", "full"]

_aten = torch.ops.aten
MATRIX_PRODUCTS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten._scaled_mm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.torch_attn._varlen_attn.default,
    torch.ops.llava_pl.attend_each.default,
]
"""Nearly all of a layer's arithmetic. Their results are what "selective" keeps."""


def find_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model of transformers: most of its weights, run one after the other."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute_layers(model: nn.Module, kind: GradientCheckpointing) -> None:
    """Have the layers of a model compute their activations again in the backward pass.

    Which modules are layers, transformers says (`GradientCheckpointingLayer`). Its own switch recomputes in train mode
    alone, which a frozen decoder is not in though gradients pass through it to the projector; there it would drop the
    cache of `generate`, too, and it makes every word embedding ask for a gradient. Here a layer recomputes whenever
    gradients are recorded, in the mode that its parts are in, so that dropout stays off where it is off.

    Args:
        model: Any model of transformers; its parameters keep their names.
        kind: "none" leaves it as it is.

    Raises:
        InputError: An unknown kind, or a model without layers that transformers knows.
    """
    if kind == "none":
        return
    if kind not in ("selective", "full"):
        raise InputError(f"model.decoder.gradient_checkpointing: expected none, selective or full, found {kind!r}")
    layers = find_layers(model)
    if not layers:
        raise InputError(
            f"model.decoder.gradient_checkpointing: {type(model).__name__} has no layers that can be recomputed; "
            "expected none"
        )
    for layer in layers:
        # On the object, beneath its hooks, so that those of sharding strategies do not run twice.
        layer.forward = partial(run_layer, layer, kind)


def run_layer(layer: nn.Module, kind: GradientCheckpointing, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Return what a layer returns, and keep of it what a kind of recomputation keeps."""
    # By its class at the time of the call: sharding strategies replace it.
    forward = partial(type(layer).forward, layer)
    if kind == "none" or not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    options: dict[str, Any] = {}
    if kind == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, cast("Any", MATRIX_PRODUCTS))
    # Not reentrant: the reentrant kind loses gradients of keyword arguments, and DDP counts parameters twice with it.
    return checkpoint(forward, *args, use_reentrant=False, **options, **kwargs)
