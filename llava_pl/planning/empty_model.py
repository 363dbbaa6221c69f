"""The configuration of a run to its model without weights, and to the bytes that its weights will take.

In: a `LlavaModule` whose layers are not built. Out: the `LlavaModel` that `configure_model` would build, on the meta
device, and its `WeightBytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from llava_pl.export.build import DecoderConfig, build_empty_model
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.training.module import LlavaModule
from llava_pl.training.sharding import find_units, find_whole
from llava_pl.training.stages import add_planned_adapters, apply_plan

SCALES_PER_WEIGHT = 1 / 64
"""bitsandbytes keeps one scale for 64 weights of 4 bits (Dettmers et al. 2023, section 3)."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """What weights take, before they are divided among devices.

    Args:
        whole: Those that each device keeps whole whatever the strategy.
        divisible: All others.
        trained: Of these two, those that learn: as much as a gradient of each takes.
        num_trained: How many weights learn.
        num_weights: How many there are.
        gathered: With FSDP2, what a device holds whole on top of its pieces: the root, a layer and the next one.
        gathered_gradients: With FSDP2, the gradients of a layer, and their copy that is sent.
        dequantized: The largest quantized layer in the dtype that it is multiplied in.
    """

    whole: int
    divisible: int
    trained: int
    num_trained: int
    num_weights: int
    gathered: int
    gathered_gradients: int
    dequantized: int

    @property
    def total(self) -> int:
        """All weights of a device that has them all."""
        return self.whole + self.divisible


def build_run_model(module: LlavaModule, *, trained_dtype: torch.dtype = torch.float32) -> LlavaModel:
    """Return the model that a run trains, on the meta device, each part as it learns.

    Args:
        module: Of which `configure_model` was not called.
        trained_dtype: Of what learns: float32, but for strategies with copies of their own in float32.
    """
    model = build_empty_model(module.model_config)
    quantized = set(_quantized_weights(model, module.model_config.decoder))
    with torch.device("meta"):
        add_planned_adapters(model, module.plan, module.lora)
    apply_plan(model, module.plan, lora_bias="none" if module.lora is None else module.lora.bias)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trained_dtype)
    if quantized:
        for parameter in model.decoder.parameters():  # type: ignore[attr-defined]  # Decoder is a protocol
            if parameter not in quantized and not parameter.requires_grad:
                parameter.data = parameter.data.float()  # as `prepare_quantized` does
    return model


def weigh(model: LlavaModel, config: DecoderConfig) -> WeightBytes:
    """Return the bytes of the weights of a model.

    Args:
        model: From `build_run_model`.
        config: How its decoder is quantized.
    """
    quantized = set(_quantized_weights(model, config))
    sizes = {
        parameter: _bytes(parameter, config if parameter in quantized else None) for parameter in model.parameters()
    }
    whole = find_whole(model)
    units = [list(unit.parameters()) for unit in find_units(model)]
    in_units = {parameter for unit in units for parameter in unit}
    root = sum(size for parameter, size in sizes.items() if parameter not in in_units | whole)
    largest = max(sum(sizes[parameter] for parameter in unit) for unit in units)
    largest_trained = max(sum(sizes[p] for p in unit if p.requires_grad) for unit in units)
    return WeightBytes(
        whole=sum(sizes[parameter] for parameter in whole),
        divisible=sum(size for parameter, size in sizes.items() if parameter not in whole),
        trained=sum(size for parameter, size in sizes.items() if parameter.requires_grad),
        num_trained=sum(parameter.numel() for parameter in sizes if parameter.requires_grad),
        num_weights=sum(parameter.numel() for parameter in sizes),
        gathered=root + 2 * largest,
        gathered_gradients=2 * largest_trained,
        dequantized=max((2 * parameter.numel() for parameter in quantized), default=0),
    )


def _quantized_weights(model: LlavaModel, config: DecoderConfig) -> list[nn.Parameter]:
    """Return the weights of the linear layers of a quantized decoder's blocks; never those of adapters."""
    if config.quantization == "none":
        return []
    decoder = cast("CausalDecoder", model.decoder)
    return [
        cast("nn.Parameter", layer.weight)
        for name, layer in decoder.model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not decoder.head and ".lora_" not in name
    ]


def _bytes(parameter: nn.Parameter, quantized: DecoderConfig | None) -> int:
    if quantized is None:
        return parameter.numel() * parameter.element_size()
    if quantized.quantization == "int8":
        return parameter.numel() + 4 * parameter.shape[0]  # a scale for each row (Dettmers et al. 2022)
    # With double quantization a scale is a byte, and 256 of them share one of four.
    per_scale = 1 + 4 / 256 if quantized.double_quantization else 4
    return round(parameter.numel() * (0.5 + SCALES_PER_WEIGHT * per_scale))
