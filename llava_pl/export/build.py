"""Configuration to model: each part from its own place on disk, the projector fresh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from transformers import BitsAndBytesConfig

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.export.part_configs import read_decoder_config, read_vision_config, sketch_decoder, sketch_vision_encoder
from llava_pl.export.parts import load_decoder, load_vision_encoder
from llava_pl.export.streaming import WeightStream
from llava_pl.models.anyres import build_newline
from llava_pl.models.compiling import compile_layers
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.fused import FusedKernels, fuse_kernels
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector, check_keeps_grid, count_image_tokens, find_connector
from llava_pl.models.quantization import Quantization, check_quantized, prepare_quantized, require_bitsandbytes
from llava_pl.models.recompute import GradientCheckpointing, recompute_layers
from llava_pl.models.vision_encoder import SelectFeature, VisionEncoder, count_patches
from llava_pl.models.vocabulary import add_rows
from llava_pl.types import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class VisionEncoderConfig:
    """The eye.

    Args:
        path: Folder or hub name of a CLIP model, or of a SigLIP or SigLIP-2 model of one picture size.
        select_layer: Which hidden state to use; negative counts from the last layer. LLaVA-1.5: -2.
        select_feature: "patch", or "cls_patch" with the class token in front, which SigLIP has not.
        compile_layers: Have torch compile its layers for training; see the decoder's.
    """

    path: str
    select_layer: int = -2
    select_feature: SelectFeature = "patch"
    compile_layers: bool = False


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
        quantization: How the linear layers of its blocks are held (needs the extra [qlora]): "nf4" or "fp4" in 4 bits
            (Dettmers et al. 2023), "int8" in 8, or "none". Head and embeddings are never quantized.
        double_quantization: Quantize the scales of 4-bit weights, too.
        compute_dtype: Dtype that 4-bit weights are multiplied in.
        compile_layers: Have torch compile its layers for training, once for all lengths; the first step takes longer.
            Results differ by roundings.
        fused_kernels: Whose kernels do its norms, rotations and gated products: torch's ("none"), or "liger", on GPUs,
            which needs the extra [liger]. Results differ by roundings.
    """

    path: str
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: GradientCheckpointing = "none"
    quantization: Quantization = "none"
    double_quantization: bool = False
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    compile_layers: bool = False
    fused_kernels: FusedKernels = "none"

    def __post_init__(self) -> None:
        """Refuse unknown words and settings that contradict each other."""
        for name, choices in (
            ("quantization", get_args(Quantization)),
            ("compute_dtype", tuple(DTYPES)),
            ("fused_kernels", get_args(FusedKernels)),
        ):
            if (found := getattr(self, name)) not in choices:
                raise InputError(f"model.decoder.{name}: expected one of {', '.join(choices)}, found {found!r}")
        if self.double_quantization and self.quantization not in ("nf4", "fp4"):
            raise InputError(
                f"model.decoder.double_quantization: is for nf4 and fp4, found quantization {self.quantization}"
            )
        if self.compile_layers and (self.quantization != "none" or self.attention == "flash_attention_2"):
            raise InputError(
                "model.decoder.compile_layers: is for decoders that are not quantized, with attention sdpa or eager; "
                f"found quantization {self.quantization} and attention {self.attention}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """All that a model is built of.

    Args:
        vision_encoder: Where the encoder comes from; plain values are taken, too.
        decoder: Where the decoder comes from, and the tokenizer beside it; likewise.
        projector: Kind of projector; see `build_projector`.
        projector_options: Further arguments of the projector's class.
        has_newline: Whether pictures are tiled, so that the model needs a newline embedding.
        has_image_marks: Whether image slots have start and end marks, which need rows in the decoder.
        has_patch_token: Whether the tokenizer is given ``<im_patch>``, which needs one.
        frozen_dtype: Dtype that weights are read in; trained parts are raised to float32 afterwards.
    """

    vision_encoder: VisionEncoderConfig
    decoder: DecoderConfig
    projector: str = "mlp2x_gelu"
    projector_options: dict[str, Any] | None = None
    has_newline: bool = False
    has_image_marks: bool = False
    has_patch_token: bool = False
    frozen_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        """Make parts of plain values, and refuse what no model can be built of."""
        for name, kind in (("vision_encoder", VisionEncoderConfig), ("decoder", DecoderConfig)):
            if isinstance(given := getattr(self, name), dict):
                object.__setattr__(self, name, kind(**given))
        if self.frozen_dtype not in DTYPES:
            choices = ", ".join(DTYPES)
            raise InputError(f"model.frozen_dtype: expected one of {choices}, found {self.frozen_dtype!r}")
        if self.has_newline:
            check_keeps_grid(self.projector)

    @property
    def base_paths(self) -> dict[str, str]:
        """Where the models are that it is built upon, by part."""
        return {"vision_encoder": self.vision_encoder.path, "decoder": self.decoder.path}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ModelConfig:
        """Return what the plain values of a larger configuration say of the model.

        Raises:
            KeyError: A setting is missing.
            TypeError: A part has a setting that is not known.
        """
        return cls(**{field.name: settings[field.name] for field in fields(cls)})


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
    if decoder.fused_kernels != "none":
        fuse_kernels(language.model)
    if vision_encoder.compile_layers:
        compile_layers(encoder.model)
    if decoder.compile_layers:
        compile_layers(language.model, decoder.gradient_checkpointing)
    return model


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
    with torch.device("meta"):
        return _compose(config, encoder, language)


def _compose(
    config: ModelConfig, encoder: VisionEncoder, language: CausalDecoder, stream: WeightStream | None = None
) -> LlavaModel:
    """Return the model of pre-trained parts, a decoder that knows all tokens, and a fresh projector."""
    recompute_layers(language.model, config.decoder.gradient_checkpointing)
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
