"""Configuration to model: each part from its own place on disk, the projector fresh."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.export.model_config import DTYPES, DecoderConfig, ModelConfig
from llava_pl.export.part_configs import read_decoder_config, read_vision_config, sketch_decoder, sketch_vision_encoder
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.export.streaming import WeightStream
from llava_pl.models.anyres import build_newline
from llava_pl.models.compiling import compile_layers
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.float8 import check_sides, multiply_in_float8
from llava_pl.models.fused import fuse_kernels
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector, count_image_tokens, find_connector
from llava_pl.models.quantization import check_quantized, prepare_quantized, require_bitsandbytes
from llava_pl.models.recompute import recompute_layers
from llava_pl.models.vision_encoder import VisionEncoder, count_patches
from llava_pl.models.vocabulary import add_rows


def build_model(
    config: ModelConfig, *, device: torch.device | str = "cpu", stream: WeightStream | None = None
) -> LlavaModel:
    """Return the model with pre-trained encoder and decoder and a fresh projector.

    Args:
        config: What it is built of.
        device: Where a quantized decoder is quantized; everything else is built on the CPU.
        stream: What fills the decoder later, when it is divided; not for a quantized one. None to read all weights now.
    """
    vision_encoder, decoder, frozen_dtype = config.vision_encoder, config.decoder, DTYPES[config.frozen_dtype]
    encoder = load_vision_encoder(
        vision_encoder.path,
        select_layer=vision_encoder.select_layer,
        select_feature=vision_encoder.select_feature,
        dtype=frozen_dtype,
    )
    language = load_decoder(
        decoder.path,
        dtype=frozen_dtype,
        attn_implementation=decoder.attention,
        quantization=_quantization_config(decoder),
        device=device,
        stream=stream,
    )
    if decoder.quantization != "none":
        prepare_quantized(language.model)
    model = _compose(config, encoder, language, stream)
    if decoder.quantization != "none":
        check_quantized(model, language, plain=[language.head, language.embedding])
    speed_up(config, encoder, language)
    return model


def speed_up(config: ModelConfig, encoder: VisionEncoder, language: CausalDecoder) -> None:
    """Have pre-trained parts do their work in less time, as far as the settings ask for it."""
    decoder = config.decoder
    if decoder.fused_kernels != "none":
        fuse_kernels(language.model)
    if decoder.float8 != "none":
        multiply_in_float8(language.model, decoder.float8)
    if config.vision_encoder.compile_layers:
        compile_layers(encoder.model)
    if decoder.compile_layers:
        compile_layers(language.model, decoder.recompute)


def sketch_model(config: ModelConfig) -> LlavaModel:
    """Return the model that `build_model` would, without weights, on torch's `meta` device, and without quantizing.

    Whatever the settings ask for that these parts do not have is so found in seconds, before gigabytes are read.

    Raises:
        InputError: As of `build_model`, but for what is wrong with weights.
    """
    vision_encoder, decoder, frozen_dtype = config.vision_encoder, config.decoder, DTYPES[config.frozen_dtype]
    _quantization_config(decoder)  # which refuses where bitsandbytes is not installed
    encoder = sketch_vision_encoder(
        vision_encoder.path,
        select_layer=vision_encoder.select_layer,
        select_feature=vision_encoder.select_feature,
        dtype=frozen_dtype,
    )
    language = sketch_decoder(decoder.path, dtype=frozen_dtype, attention=decoder.attention)
    if decoder.float8 != "none":
        check_sides(language.model)
    with torch.device("meta"):
        return _compose(config, encoder, language)


def _compose(
    config: ModelConfig, encoder: VisionEncoder, language: CausalDecoder, stream: WeightStream | None = None
) -> LlavaModel:
    """Return the model of pre-trained parts, a decoder that knows all tokens, and a fresh projector."""
    recompute_layers(language.model, config.decoder.recompute)
    new_token_ids: list[int] = []
    if config.has_image_marks or config.has_patch_token:
        tokenizer = load_tokenizer(config.decoder.path)
        new_token_ids = add_image_tokens(
            tokenizer, image_patch_token=config.has_patch_token, image_start_end=config.has_image_marks
        )
        if stream is not None and new_token_ids:
            stream.make_real([*language.embedding.parameters(), *language.head.parameters()])
        add_rows(language, new_token_ids)
    bridge = build_projector(
        config.projector,
        vision_width=encoder.width,
        decoder_width=language.width,
        num_patches=encoder.num_patches,
        options=config.projector_options,
    )
    newline = build_newline(language.width) if config.has_newline else None
    return LlavaModel(encoder, bridge, language, newline, new_token_ids)


def plan_image_tokens(config: ModelConfig) -> int:
    """Return P of the model that `build_model` would build, without loading or making a weight."""
    vision_config = read_vision_config(config.vision_encoder.path)
    num_patches = count_patches(vision_config, config.vision_encoder.select_feature)
    if find_connector(config.projector) is None:
        return num_patches
    with torch.device("meta"):
        bridge = build_projector(
            config.projector,
            vision_width=vision_config.hidden_size,
            decoder_width=read_decoder_config(config.decoder.path).get_text_config().hidden_size,
            num_patches=num_patches,
            options=config.projector_options,
        )
    return count_image_tokens(bridge, num_patches)


def _quantization_config(decoder: DecoderConfig) -> BitsAndBytesConfig | None:
    if decoder.quantization == "none":
        return None
    require_bitsandbytes(f"model.decoder.quantization: {decoder.quantization}")
    options: dict[str, Any] = {"load_in_8bit": True}
    if decoder.quantization != "int8":
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": decoder.quantization,
            "bnb_4bit_use_double_quant": decoder.double_quantization,
            "bnb_4bit_compute_dtype": DTYPES[decoder.compute_dtype],
        }
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]
