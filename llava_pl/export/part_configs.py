"""Folders and hub names to the settings of a part, and to the part without its weights.

In: what `model.vision_encoder.path` and `model.decoder.path` name. Out: transformers' configuration of it, checked; and
on torch's `meta` device, where tensors have no values, the part itself, which takes no time and no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_pl.data.json_files import read_json_object
from llava_pl.export.artifact import is_artifact, read_spec
from llava_pl.export.assemble import find_attention
from llava_pl.export.manifest import MANIFEST_FILE
from llava_pl.export.original import is_original, read_original_config
from llava_pl.export.quiet import silenced
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.vision_encoder import SelectFeature, VisionConfig, VisionEncoder, VisionModel, count_layers_to_run
from llava_pl.types import InputError

ATTENTION_FLAGS = {"sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn"}
"""By which transformers' classes tell whether they have an attention; MPT, for one, has neither."""


def read_vision_config(path: str | Path) -> VisionConfig:
    """Return the settings of an encoder, from a folder or hub name of the vision model alone or of the whole model.

    Raises:
        InputError: There is no configuration of CLIP or SigLIP.
    """
    if is_artifact(Path(path)):
        config = AutoConfig.for_model(**read_spec(Path(path))[0].vision_encoder)
    elif is_original(Path(path)):
        tower = read_original_config(Path(path)).vision_encoder
        raise InputError(
            f"vision_encoder.path: {path}: expected a CLIP or SigLIP vision model, found a folder of the original "
            f"LLaVA; name its vision tower, {tower}"
        )
    else:
        config = _read_config(path, "vision_encoder.path")
    config = getattr(config, "vision_config", config)
    if not isinstance(config, CLIPVisionConfig | SiglipVisionConfig):
        raise InputError(
            f"vision_encoder.path: {path}: expected a CLIP or SigLIP vision model of pictures of one size, "
            f"found {config.model_type!r}"
        )
    return config


def cut_vision_config(path: str | Path, select_layer: int, select_feature: SelectFeature) -> VisionConfig:
    """Return the settings of an encoder that ends at the selected layer.

    Raises:
        InputError: The layer does not exist; or the encoder is of a folder of this project, which was cut when it was
            written, and another layer is asked for, or other positions of it.
    """
    config = read_vision_config(path)
    if not is_artifact(Path(path)):
        config.num_hidden_layers = count_layers_to_run(config.num_hidden_layers, select_layer)
        return config
    spec, _ = read_spec(Path(path))
    bases = read_json_object(Path(path) / MANIFEST_FILE).get("base_models", {})
    cut = bases.get("vision_encoder", {}).get("select_layer")
    if select_layer not in (-1, cut) or select_feature != spec.select_feature:
        raise InputError(
            f"vision_encoder.path: {path}: was made with select_layer {cut} and select_feature "
            f"{spec.select_feature}, found {select_layer} and {select_feature}; give those, or the whole encoder"
        )
    return config


def vision_class(config: VisionConfig) -> Any:  # noqa: ANN401  a class of transformers
    """Return the class of an encoder, whose settings are changed so that it holds what is used alone."""
    if isinstance(config, SiglipVisionConfig):
        config.vision_use_head = False  # it pools the last layer
        return SiglipVisionModel
    return CLIPVisionModel


def read_decoder_config(path: str | Path, *, attention: str | None = None) -> Any:  # noqa: ANN401  of any family
    """Return the settings of a decoder, from a folder or hub name of any form that `load_decoder` takes.

    Args:
        path: The folder or name.
        attention: As transformers names it; None for one that the model has.

    Raises:
        InputError: There is no such model, none whose weights can be trained on, or it does not have this attention.
    """
    folder, field = Path(path), f"decoder.path: {path}"
    if is_original(folder):
        original = read_original_config(folder)
        return CONFIG_MAPPING[original.family].from_dict(original.decoder)
    is_own = is_artifact(folder)
    config = AutoConfig.for_model(**read_spec(folder)[0].decoder) if is_own else _read_config(path, "decoder.path")
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{field}: its weights are quantized; give those that they were made from, and choose with "
            "model.decoder.quantization"
        )
    if (folder / "adapter_config.json").is_file():  # transformers would load the base that it names, from anywhere
        raise InputError(
            f"{field}: holds adapters beside a model, found adapter_config.json; merge them first, or remove that file"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(f"{field}: expected a causal language model, found {config.model_type!r}")
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    flag = ATTENTION_FLAGS.get(attention or "")
    if flag is not None and not getattr(model_class, flag, True):
        raise InputError(f"model.decoder.attention: {model_class.__name__} has no {attention}; expected eager")
    return config


def sketch_vision_encoder(
    path: str | Path, *, select_layer: int, select_feature: SelectFeature, dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    """Return the encoder that `load_vision_encoder` would, without weights.

    Raises:
        InputError: There is none.
    """
    config = cut_vision_config(path, select_layer, select_feature)
    model = _sketch(lambda: vision_class(config)._from_config(config, dtype=dtype), f"vision_encoder.path: {path}")
    return VisionEncoder(cast("VisionModel", model), select_feature)


def sketch_decoder(
    path: str | Path, *, dtype: torch.dtype = torch.float32, attention: str | None = None
) -> CausalDecoder:
    """Return the decoder that `load_decoder` would, without weights, and not quantized.

    Raises:
        InputError: There is none, or it does not have this attention.
    """
    config = read_decoder_config(path, attention=attention)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    options = {"dtype": dtype, "attn_implementation": attention or find_attention(config)}
    try:
        return CausalDecoder(_sketch(lambda: model_class._from_config(config, **options), f"decoder.path: {path}"))
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"model.decoder.attention: {attention}: cannot be used here: {reason}") from error


def _sketch(build: Callable[[], Any], where: str) -> Any:  # noqa: ANN401  a model of transformers
    try:
        with torch.device("meta"), silenced():
            return build()
    except ImportError:
        raise
    except Exception as error:  # transformers builds what a config.json says, or fails at it in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{where}: no model can be built of its config.json: {reason}") from error


def _read_config(path: str | Path, field: str) -> Any:  # noqa: ANN401  any of transformers' configuration classes
    folder = Path(path)
    is_folder_meant = folder.is_absolute() or str(path).count("/") != 1 or str(path).startswith(".")
    if folder.exists() and not (folder / "config.json").is_file():
        raise InputError(f"{field}: {path}: expected a model folder or hub name, but it has no config.json")
    if not folder.exists() and is_folder_meant:
        raise InputError(f"{field}: {path}: expected a model folder or hub name, but there is no such folder")
    try:
        config = AutoConfig.from_pretrained(path)
    except Exception as error:  # transformers checks what a config.json says, and refuses it in any way
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{field}: {path}: expected a model folder or hub name, but {reason}") from error
    if config.model_type.startswith("llava"):
        # Its tokenizer has a word for pictures, and no begin mark.
        raise InputError(
            f"{field}: {path}: expected a model of one kind, or a folder of this project, found one of llava-hf; make "
            f"that of it: llava-pl import {path} DST"
        )
    return config
