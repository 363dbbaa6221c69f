"""The settings that say what a model is built of, and the refusal of those that no model can be built of.

In: plain values of a configuration or a checkpoint. Out: `ModelConfig`, for `build.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch

from llava_pl.models.float8 import Float8
from llava_pl.models.fused import FusedKernels
from llava_pl.models.projector import check_keeps_grid
from llava_pl.models.quantization import Quantization
from llava_pl.models.recompute import GradientCheckpointing
from llava_pl.models.vision_encoder import SelectFeature
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
            work). "auto": the first of these with which the largest micro batch fits the device, as `fit` plans it.
        quantization: How the linear layers of its blocks are held (needs the extra [qlora]): "nf4" or "fp4" in 4 bits
            (Dettmers et al. 2023), "int8" in 8, or "none". Head and embeddings are never quantized.
        double_quantization: Quantize the scales of 4-bit weights, too.
        compute_dtype: Dtype that 4-bit weights are multiplied in.
        compile_layers: Have torch compile its layers for training, once for all lengths; the first step takes longer.
            Results differ by roundings.
        fused_kernels: Whose kernels do its norms, rotations and gated products: torch's ("none"), or "liger", on GPUs,
            which needs the extra [liger]. Results differ by roundings.
        float8: Whether its blocks multiply in 8-bit floats in `fit`, on GPUs that can, compiled: "none", "tensorwise"
            or, more exact, "rowwise" (needs the extra [float8]). Results differ by more than roundings of bfloat16, and
            depend on how a step is split.
    """

    path: str
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: GradientCheckpointing | Literal["auto"] = "none"
    quantization: Quantization = "none"
    double_quantization: bool = False
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    compile_layers: bool = False
    fused_kernels: FusedKernels = "none"
    float8: Float8 = "none"

    def __post_init__(self) -> None:
        """Refuse unknown words and settings that contradict each other."""
        for name, choices in (
            ("gradient_checkpointing", (*get_args(GradientCheckpointing), "auto")),
            ("quantization", get_args(Quantization)),
            ("compute_dtype", tuple(DTYPES)),
            ("fused_kernels", get_args(FusedKernels)),
            ("float8", get_args(Float8)),
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
        if self.float8 != "none" and not self.compile_layers:
            raise InputError(
                "model.decoder.float8: needs model.decoder.compile_layers: true, without which rounding takes longer "
                "than is gained"
            )

    @property
    def recompute(self) -> GradientCheckpointing:
        """What is computed again; nothing as long as that is to be chosen."""
        return "none" if self.gradient_checkpointing == "auto" else self.gradient_checkpointing


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

    def for_evaluation(self) -> ModelConfig:
        """Return the same without 8-bit products, with which an answer depends on its batch, on any device."""
        return replace(self, decoder=replace(self.decoder, float8="none"))

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
