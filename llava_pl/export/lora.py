"""Adapters into the weights that they adapt: LoRA, DoRA and rsLoRA as peft computes them.

In: a model and the tensors of its adapters. Out: the same model without any, which answers as it did with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from llava_pl.export.pretrained import Adapters
from llava_pl.models.adapters import LoraConfig, add_adapters, is_adapter
from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError

PREFIXES = ("vision_encoder.model.", "decoder.model.")
"""Where adapters may be, as names in the model begin."""


def insert_adapters(model: LlavaModel, adapters: Adapters, where: object) -> None:
    """Put adapters into a model, each tensor of theirs exactly once.

    Args:
        model: Changed in place.
        adapters: What is put in; layers are known by the names of its tensors.
        where: What an error begins with.

    Raises:
        InputError: A layer is not there, or a tensor is missing, unexpected or of another shape, as with another rank.
    """
    for prefix in PREFIXES:
        own = {name: tensor for name, tensor in adapters.weights.items() if name.startswith(prefix)}
        if not own:
            continue
        part = model.get_submodule(prefix.removesuffix("."))
        layers = sorted({name.removeprefix(prefix).partition(".lora_")[0] for name in own})
        _check_layers(part, layers, where)
        add_adapters(part, LoraConfig(**{**adapters.config, "dropout": 0.0, "bias": "none", "targets": layers}))
        _copy(part, {name.removeprefix(prefix): tensor for name, tensor in own.items()}, where)
    if odd := [name for name in adapters.weights if not name.startswith(PREFIXES)]:
        raise InputError(f"{where}: tensor {odd[0]!r} is an adapter of neither vision encoder nor decoder")


def merge_adapters(model: LlavaModel, adapters: Adapters) -> list[str]:
    """Make the adapters of a model part of its weights, and return the names of these."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    changed = []
    for prefix in PREFIXES:
        if not any(name.startswith(prefix) for name in adapters.weights):
            continue
        part = model.get_submodule(prefix.removesuffix("."))
        for name, layer in list(part.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                tuner: Any = layer
                tuner.merge()
                part.set_submodule(name, tuner.get_base_layer())
                changed.append(f"{prefix}{name}.weight")
        vars(part).pop("peft_config", None)
    return changed


def _check_layers(part: nn.Module, layers: list[str], where: object) -> None:
    own = {name for name, layer in part.named_modules() if isinstance(layer, nn.Linear)}
    if missing := [name for name in layers if name not in own]:
        raise InputError(f"{where}: adapter of {missing[0]!r}: this base has no such layer; give that it was made for")


def _copy(part: nn.Module, weights: Mapping[str, Tensor], where: object) -> None:
    own = {name: parameter for name, parameter in part.named_parameters() if is_adapter(name)}
    if odd := sorted(own.keys() ^ weights.keys()):
        found = "missing" if odd[0] in own else "left over, with no place in this model"
        raise InputError(f"{where}: tensor {odd[0]!r} of the adapters is {found}; fetch the files again")
    for name, parameter in own.items():
        if parameter.shape != weights[name].shape:
            raise InputError(
                f"{where}: tensor {name!r} of the adapters: expected shape {tuple(parameter.shape)}, found "
                f"{tuple(weights[name].shape)}; its rank or its base is another than its settings say"
            )
        parameter.data = weights[name].to(parameter.device)
