"""Configuration to model: each part from its own place on disk, the projector fresh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from llava_pl.export.parts import load_decoder, load_vision_encoder, read_decoder_width, read_vision_config
from llava_pl.models.anyres import build_newline
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector, count_image_tokens, find_connector
from llava_pl.models.recompute import GradientCheckpointing, recompute_layers
from llava_pl.models.vision_encoder import SelectFeature, count_patches

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class VisionEncoderConfig:
    """The frozen eye.

    Args:
        path: Folder or hub name of a CLIP model, or of a SigLIP or SigLIP-2 model of one picture size.
        select_layer: Which hidden state to use; negative counts from the last layer. LLaVA-1.5: -2.
        select_feature: "patch", or "cls_patch" with the class token in front, which SigLIP has not.
    """

    path: str
    select_layer: int = -2
    select_feature: SelectFeature = "patch"


@dataclass(frozen=True)
class DecoderConfig:
    """The language model.

    Args:
        path: Folder or hub name of a decoder (LLaMA, Vicuna, Mistral, Qwen2.5, Qwen3, SmolLM2, MPT and what is built
            like them), or a folder in the original LLaVA's layout.
        attention: Implementation of attention, as transformers names it ("flash_attention_2" needs the extra [flash];
            MPT has "eager" alone).
        gradient_checkpointing: What is computed again in the backward pass instead of being kept: nothing ("none"), all
            but the matrix products ("selective"), or all but the layers' inputs ("full": least memory, a third more
            work).
    """

    path: str
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: GradientCheckpointing = "none"


def build_model(
    vision_encoder: VisionEncoderConfig,
    projector: str,
    decoder: DecoderConfig,
    *,
    frozen_dtype: torch.dtype,
    has_newline: bool = False,
    projector_options: Mapping[str, Any] | None = None,
) -> LlavaModel:
    """Return the model with pre-trained encoder and decoder and a fresh projector.

    Args:
        vision_encoder: Where the encoder comes from.
        projector: Kind of projector.
        decoder: Where the decoder comes from.
        frozen_dtype: Dtype that weights are read in; trained parts are raised to float32 afterwards.
        has_newline: Whether pictures are tiled, so that the model needs a newline embedding.
        projector_options: Further arguments of the projector's class.
    """
    encoder = load_vision_encoder(
        vision_encoder.path,
        select_layer=vision_encoder.select_layer,
        select_feature=vision_encoder.select_feature,
        dtype=frozen_dtype,
    )
    language = load_decoder(decoder.path, dtype=frozen_dtype, attn_implementation=decoder.attention)
    recompute_layers(language.model, decoder.gradient_checkpointing)
    bridge = build_projector(
        projector,
        vision_width=encoder.width,
        decoder_width=language.width,
        num_patches=encoder.num_patches,
        options=projector_options,
    )
    newline = build_newline(language.width) if has_newline else None
    return LlavaModel(encoder, bridge, language, newline)


def plan_image_tokens(
    vision_encoder: VisionEncoderConfig,
    projector: str,
    decoder: DecoderConfig,
    projector_options: Mapping[str, Any] | None = None,
) -> int:
    """Return P of the model that `build_model` would build, without loading or making a weight."""
    config = read_vision_config(vision_encoder.path)
    num_patches = count_patches(config, vision_encoder.select_feature)
    if find_connector(projector) is None:
        return num_patches
    with torch.device("meta"):
        bridge = build_projector(
            projector,
            vision_width=config.hidden_size,
            decoder_width=read_decoder_width(decoder.path),
            num_patches=num_patches,
            options=projector_options,
        )
    return count_image_tokens(bridge, num_patches)
