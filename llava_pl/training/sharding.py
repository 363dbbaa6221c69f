"""How a model is divided among devices that together hold it once (ZeRO-3, FSDP2).

In: a model, whose decoder may be made of stand-ins for its weights, and the mesh of the devices. Out: the same model,
each of whose parameters lies in equal pieces on all of them, and is whole on each only while it is used.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from llava_pl.export.streaming import WeightStream
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.recompute import find_layers
from llava_pl.progress import show_progress
from llava_pl.types import InputError


def check_shardable(quantization: str, optimizer: str) -> None:
    """Check that what a run asks for can be divided, before anything is loaded.

    Args:
        quantization: As `DecoderConfig` names it.
        optimizer: Full name of the optimizer's class.

    Raises:
        InputError: It cannot.
    """
    if quantization != "none":
        raise InputError(
            f"model.decoder.quantization: found {quantization}, whose packed weights cannot be divided among devices; "
            "choose none, or a strategy with a whole model on each device (ddp)"
        )
    if optimizer in ("torch.optim.Adafactor", "torch.optim.Rprop"):  # torch 2.13 has no such operations on pieces
        raise InputError(
            f"model.optim.optimizer: found {optimizer}, which cannot work on pieces of weights; choose "
            "torch.optim.AdamW, or a strategy with a whole model on each device (ddp)"
        )
    if optimizer.partition(".")[0] == "bitsandbytes":
        raise InputError(
            f"model.optim.optimizer: found {optimizer}, whose packed state cannot be divided among devices; choose "
            "torch.optim.AdamW, or a strategy with a whole model on each device (ddp)"
        )


def shard(model: LlavaModel, mesh: DeviceMesh, stream: WeightStream | None = None, *, is_half: bool = False) -> None:
    """Divide a model: each layer of the decoder, its table and its head are gathered alone, the rest together.

    A vision encoder that does not learn is left whole on each device: it is small beside the decoder, and gathering it
    would be work for nothing. One that learns is gathered with the rest, for every batch: a device whose batch has no
    pictures does not run it, and would let the others wait for its share of a gathering of its own.

    Args:
        model: What is changed; parameters become pieces (`DTensor`).
        mesh: One dimension, the devices.
        stream: Fills one layer after the other with this device's part of its weights, just before it is divided; None
            if the model holds them already.
        is_half: Gather layers in bfloat16, for a run whose autocast would round their weights to it anyway: half the
            traffic, and no copy of all weights that learn, which autocast would keep until the forward pass is over.

    Raises:
        InputError: A parameter, perhaps of a projector from outside, has no dimension to be divided along.
    """
    whole = find_whole(model)
    if scalars := [n for n, parameter in model.named_parameters() if not parameter.ndim and parameter not in whole]:
        raise InputError(
            f"trainer.strategy: {scalars[0]}: expected a dimension to divide it along, found a scalar; make it "
            "a tensor of shape (1,), or use configs/strategy/ddp.yaml"
        )
    is_shown = stream is not None and mesh.get_rank() == 0
    stream = stream or WeightStream()  # which has nothing to fill
    fill = partial(stream.fill, rank=mesh.get_local_rank(), num_ranks=mesh.size(), device=mesh.device_type)
    layers = find_layers(cast("CausalDecoder", model.decoder).model)
    # Not inputs: what flows between layers stays as on one device, in float32.
    half = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit in show_progress(find_units(model), "reading layers", is_shown=is_shown):
        fill(unit.parameters())
        fully_shard(unit, mesh=mesh, mp_policy=half if is_half and unit in layers else MixedPrecisionPolicy())
    fill(model.parameters())
    fully_shard(model, mesh=mesh, ignored_params=whole)
    for method in ("generate", "answer", "score"):
        register_fsdp_forward_method(model, method)


def find_units(model: LlavaModel) -> list[nn.Module]:
    """Return the modules whose parameters are gathered alone."""
    decoder = cast("CausalDecoder", model.decoder)
    units = find_layers(decoder.model)
    # Tied ones are gathered with the rest, once; where rows of new tokens learn, both have peft's layers around them.
    if set(decoder.head.parameters()).isdisjoint(decoder.embedding.parameters()):
        units += [decoder.embedding, decoder.head]
    return units


def find_whole(model: LlavaModel) -> set[nn.Parameter]:
    """Return the parameters that each device keeps whole: those of an encoder that does not learn."""
    encoder = set(model.vision_encoder.parameters())
    return set() if any(parameter.requires_grad for parameter in encoder) else encoder
