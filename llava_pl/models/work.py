"""The shapes of a model and of a micro batch to floating-point operations.

In: a model, and the `BatchCounts` of a micro batch. Out: `Work`, by part. A multiplication and an addition are two
operations. A matrix of N weights costs 2N for each position forward, 2N backward for the gradient of its input and 2N
for its own (Kaplan et al. 2020, section 2.1, whose 6N is the sum where everything learns). Attention over T positions
of width W costs 4 T^2 W forward and twice that backward, its causal half not subtracted (Chowdhery et al. 2022,
appendix B, which defines the utilization of a device, MFU, by these numbers and without what is computed again). All
else is left out: norms, activations, rotations are less than a hundredth.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, cast

from torch import nn

from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.division import whole_shape
from llava_pl.models.llava import LlavaModel
from llava_pl.models.recompute import GradientCheckpointing, find_layers


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """A micro batch, as far as its operations depend on it: each of them grows evenly with one of these.

    Args:
        num_tiles: Pictures that the vision encoder sees.
        num_positions: Positions that the decoder sees.
        num_pairs: Pairs of positions of one sequence, the squares of the sequences' lengths added up.
        num_supervised: Rows that the head sees.
    """

    num_tiles: int = 0
    num_positions: int = 0
    num_pairs: int = 0
    num_supervised: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of one part.

    Args:
        part: Its name.
        forward: From input to output.
        backward: For the gradients of what learns, and of what lies between it and the loss.
        again: What is computed a second time on the way back, in place of being kept.
    """

    part: str
    forward: int
    backward: int
    again: int = 0


def count_work(model: LlavaModel, counts: BatchCounts, recomputation: GradientCheckpointing) -> list[Work]:
    """Return the operations of a micro batch, part by part.

    A connector with queries of its own is counted as if it went through each patch feature once.

    Args:
        model: Of any device.
        counts: Of the micro batch.
        recomputation: Of the decoder; "selective" keeps the matrix products, which are what is counted here.
    """
    decoder = cast("CausalDecoder", model.decoder)
    learns = {part: _learns(getattr(model, part)) for part in ("vision_encoder", "projector")}
    vision_config: Any = model.vision_encoder.model.config
    vision_positions = counts.num_tiles * int(model.vision_encoder.model.embeddings.num_positions)
    encoder = _products(
        "vision_encoder", _within_layers(model.vision_encoder), vision_positions, flows=learns["vision_encoder"]
    )
    encoder = _with_attention(
        encoder,
        num_layers=len(find_layers(model.vision_encoder)),
        width=int(vision_config.hidden_size),
        squares=counts.num_tiles * int(model.vision_encoder.model.embeddings.num_positions) ** 2,
        flows=learns["vision_encoder"],
    )
    pixels = model.vision_encoder.model.embeddings.patch_embedding.weight
    per_tile = int(model.vision_encoder.model.embeddings.num_patches)
    patches = 2 * whole_shape(pixels).numel() * per_tile * counts.num_tiles
    encoder = Work("vision_encoder", encoder.forward + patches, encoder.backward + patches * pixels.requires_grad)
    linears = [layer for layer in model.projector.modules() if isinstance(layer, nn.Linear)]
    features = counts.num_tiles * model.vision_encoder.num_patches
    projector = _products("projector", linears, features, flows=learns["projector"])
    if linears and not learns["vision_encoder"] and learns["projector"]:  # nobody asks for the gradient of its input
        projector = Work("projector", projector.forward, projector.backward - 2 * features * _weights(linears[0]))
    blocks = _products("decoder", _within_layers(decoder), counts.num_positions, flows=True)
    config: Any = decoder.model.config.get_text_config()
    heads = int(config.num_attention_heads)
    blocks = _with_attention(
        blocks,
        num_layers=len(find_layers(decoder.model)),
        width=heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        squares=counts.num_pairs,
        flows=True,
    )
    if recomputation == "full":
        # torch stops when it has what was not kept: before the last product of each block, whose result nobody needs.
        spared = 2 * counts.num_positions * sum(_weights(layers[-1]) for layers in _linears(decoder.model))
        blocks = Work("decoder", blocks.forward, blocks.backward, blocks.forward - spared)
    head = _products("head", [decoder.head], counts.num_supervised, flows=True)
    return [encoder, projector, blocks, head]


def needed_operations(model: LlavaModel, *, encodes: bool = True) -> dict[str, int]:
    """Return the operations, forward and backward, that one of each of the `BatchCounts` needs, by its name.

    Nothing that is computed again is among them. Multiplied by the counts of a batch they add up to its operations.

    Args:
        model: Of any device.
        encodes: Whether the vision encoder runs; it does not where a store keeps what it makes of pictures.
    """
    needed = {}
    for count in fields(BatchCounts):
        parts = count_work(model, BatchCounts(**{count.name: 1}), "none")
        work = add_up([part for part in parts if encodes or part.part != "vision_encoder"])
        needed[count.name] = work.forward + work.backward
    return needed


def add_up(parts: list[Work]) -> Work:
    """Return the operations of the whole model."""
    return Work(
        "all",
        sum(part.forward for part in parts),
        sum(part.backward for part in parts),
        sum(part.again for part in parts),
    )


def _within_layers(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a model's blocks, the matrices of their adapters among them."""
    return [linear for linears in _linears(model) for linear in linears]


def _linears(model: nn.Module) -> list[list[nn.Linear]]:
    """Return the linear layers of each block of a model."""
    return [[linear for linear in layer.modules() if isinstance(linear, nn.Linear)] for layer in find_layers(model)]


def _products(part: str, layers: list[nn.Linear], num_positions: int, *, flows: bool) -> Work:
    """Return the operations of linear layers.

    Args:
        part: What they belong to.
        layers: Each goes through all positions.
        num_positions: Rows of their inputs.
        flows: Whether gradients of their inputs are asked for.
    """
    weights = sum(_weights(layer) for layer in layers)
    learning = sum(_weights(layer) for layer in layers if layer.weight.requires_grad)
    return Work(part, 2 * num_positions * weights, 2 * num_positions * ((weights if flows else 0) + learning))


def _weights(layer: nn.Linear) -> int:
    """Return the weights of a layer, also where they are divided among devices or quantized."""
    return layer.in_features * layer.out_features


def _with_attention(work: Work, *, num_layers: int, width: int, squares: int, flows: bool) -> Work:
    forward = 4 * num_layers * width * squares
    return Work(work.part, work.forward + forward, work.backward + (2 * forward if flows else 0))


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
