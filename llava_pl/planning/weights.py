"""The configuration of a run to its model without weights, and to the bytes that its weights will take.

In: a `LlavaModule` whose layers are not built. Out: the `LlavaModel` that `configure_model` would build, on the meta
device, and its `WeightBytes`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from llava_pl.export.model_config import DecoderConfig
from llava_pl.export.part_configs import read_decoder_config
from llava_pl.models.adapters import LEARNED_ROWS, is_adapter
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.recompute import find_layers
from llava_pl.training.module import LlavaModule
from llava_pl.training.rehearsal import sketch_run
from llava_pl.training.sharding import find_units, find_whole

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
        streamed: Those of the decoder, of which a device that divides weights takes its part from their files.
        largest_unit: The most that is divided at once: a layer, the table of word embeddings, or the head.
        gathered: With FSDP2, what a device holds whole on top of its pieces: the root, a layer and the next one.
        gathered_gradients: With FSDP2, the gradients of a layer, and their copy that is sent.
        bucket: How many weights share a buffer that gradients are sent from, with ZeRO: the decoder's width squared.
        dequantized: The largest quantized layer in the dtype that it is multiplied in.
    """

    whole: int
    divisible: int
    trained: int
    num_trained: int
    num_weights: int
    streamed: int
    largest_unit: int
    gathered: int
    gathered_gradients: int
    bucket: int
    dequantized: int

    @property
    def total(self) -> int:
        """All weights of a device that has them all."""
        return self.whole + self.divisible


def build_run_model(module: LlavaModule) -> LlavaModel:
    """Return the model that a run trains, on the meta device, each part as it learns.

    Packages that the run needs are not needed here: the layers of a quantized decoder are whole, in the dtype of frozen
    parts, and "flash_attention_2" is "sdpa", whose shapes it has.

    Args:
        module: Of which `configure_model` was not called.

    Raises:
        InputError: As of `sketch_run`.
    """
    config, decoder = module.model_config, module.model_config.decoder
    read_decoder_config(decoder.path, attention=decoder.attention)  # which refuses one that the family has not
    here = replace(decoder, quantization="none", double_quantization=False)
    if decoder.attention == "flash_attention_2":
        here = replace(here, attention="sdpa")
    model = sketch_run(replace(config, decoder=here), module.plan, module.lora)
    if quantized := set(_quantized_weights(model, decoder)):
        for parameter in model.decoder.parameters():  # type: ignore[attr-defined]  # Decoder is a protocol
            if parameter not in quantized:
                parameter.data = parameter.data.float()  # as `prepare_quantized` does
    return model


def weigh(model: LlavaModel, config: DecoderConfig, *, gathers_half: bool = False) -> WeightBytes:
    """Return the bytes of the weights of a model.

    Args:
        model: From `build_run_model`.
        config: How its decoder is quantized.
        gathers_half: Whether FSDP2 gathers the decoder's layers in bfloat16; see `shard`.
    """
    quantized = set(_quantized_weights(model, config))
    sizes = {
        parameter: _bytes(parameter, config if parameter in quantized else None) for parameter in model.parameters()
    }
    whole = find_whole(model)
    units = [list(unit.parameters()) for unit in find_units(model)]
    in_units = {parameter for unit in units for parameter in unit}
    layers = {parameter for layer in _layers(model) for parameter in layer.parameters()} if gathers_half else set()
    gathered = {parameter: 2 * parameter.numel() if parameter in layers else size for parameter, size in sizes.items()}
    streamed = _streamed_weights(model)
    root = sum(size for parameter, size in sizes.items() if parameter not in in_units | whole)
    # A gradient is of the dtype that its weight is gathered in, and is sent in that of the weight's pieces.
    largest_gradients = max(sum(gathered[p] + sizes[p] for p in unit if p.requires_grad) for unit in units)
    return WeightBytes(
        whole=sum(sizes[parameter] for parameter in whole),
        divisible=sum(size for parameter, size in sizes.items() if parameter not in whole),
        trained=sum(size for parameter, size in sizes.items() if parameter.requires_grad),
        num_trained=sum(parameter.numel() for parameter in sizes if parameter.requires_grad),
        num_weights=sum(parameter.numel() for parameter in sizes),
        streamed=sum(size for parameter, size in sizes.items() if parameter in streamed),
        largest_unit=max(sum(sizes[parameter] for parameter in unit) for unit in units),
        gathered=root + 2 * max(sum(gathered[parameter] for parameter in unit) for unit in units),
        gathered_gradients=largest_gradients,
        bucket=cast("CausalDecoder", model.decoder).width ** 2,
        dequantized=max((2 * parameter.numel() for parameter in quantized), default=0),
    )


def gather_half(model: LlavaModel) -> None:
    """Hold the decoder's layers as FSDP2 gathers them under autocast, in bfloat16: so they meet what flows by."""
    for layer in _layers(model):
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)


def _layers(model: LlavaModel) -> list[nn.Module]:
    return find_layers(cast("CausalDecoder", model.decoder).model)


def _quantized_weights(model: LlavaModel, config: DecoderConfig) -> list[nn.Parameter]:
    """Return the weights of the linear layers of a quantized decoder's blocks; never those of adapters."""
    if config.quantization == "none":
        return []
    decoder = cast("CausalDecoder", model.decoder)
    return [
        cast("nn.Parameter", layer.weight)
        for name, layer in decoder.model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not decoder.head and not is_adapter(name)
    ]


def _streamed_weights(model: LlavaModel) -> set[nn.Parameter]:
    """Return the weights that are read part by part; tables that get rows for new tokens are read whole."""
    decoder = cast("CausalDecoder", model.decoder)
    tables = {*decoder.embedding.parameters(), *decoder.head.parameters()} if model.new_token_ids else set()
    return {
        parameter
        for name, parameter in decoder.model.named_parameters()
        if not is_adapter(name) and not name.endswith(LEARNED_ROWS) and parameter not in tables
    }


def _bytes(parameter: nn.Parameter, quantized: DecoderConfig | None) -> int:
    if quantized is None:
        return parameter.numel() * parameter.element_size()
    if quantized.quantization == "int8":
        return parameter.numel() + 4 * parameter.shape[0]  # a scale for each row (Dettmers et al. 2022)
    # With double quantization a scale is a byte, and 256 of them share one of four.
    per_scale = 1 + 4 / 256 if quantized.double_quantization else 4
    return round(parameter.numel() * (0.5 + SCALES_PER_WEIGHT * per_scale))
