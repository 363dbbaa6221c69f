"""Folders to model parts: vision encoder, decoder and projector, each from its own place on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.utils import logging

from llava_pl.data.json_files import read_json_object
from llava_pl.export.artifact import is_artifact, read_part, read_spec
from llava_pl.export.manifest import MANIFEST_FILE
from llava_pl.export.original import decoder_weights, is_original, read_original_config
from llava_pl.export.weights import read_weights
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.vision_encoder import (
    SelectFeature,
    VisionConfig,
    VisionEncoder,
    VisionModel,
    count_layers_to_run,
)
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
    else:
        config = _read_config(path, "vision_encoder.path")
    config = getattr(config, "vision_config", config)
    if not isinstance(config, CLIPVisionConfig | SiglipVisionConfig):
        raise InputError(
            f"vision_encoder.path: {path}: expected a CLIP or SigLIP vision model of pictures of one size, "
            f"found {config.model_type!r}"
        )
    return config


def load_vision_encoder(
    path: str | Path,
    *,
    select_layer: int = -2,
    select_feature: SelectFeature = "patch",
    dtype: torch.dtype = torch.float32,
) -> VisionEncoder:
    """Return the encoder with the layers above the selected one left out.

    Raises:
        InputError: The folder is no CLIP or SigLIP model, tensors are missing, or the layer does not exist.
    """
    config = read_vision_config(path)
    if is_artifact(Path(path)):
        return _load_own_encoder(Path(path), config, select_layer, select_feature, dtype)
    config.num_hidden_layers = count_layers_to_run(config.num_hidden_layers, select_layer)
    # Text part, projection and upper layers are expected to be left over.
    model = _from_pretrained(
        vision_class(config), path, "vision_encoder.path", allows_rest=True, config=config, dtype=dtype
    )
    return VisionEncoder(cast("VisionModel", model), select_feature)


def read_decoder_config(path: str | Path) -> Any:  # noqa: ANN401  any of transformers' configuration classes
    """Return the configuration of a decoder, from whatever `load_decoder` reads.

    Raises:
        InputError: There is no such model.
    """
    if is_original(Path(path)):
        return LlamaConfig.from_dict(read_original_config(Path(path)).decoder)
    if is_artifact(Path(path)):
        return AutoConfig.for_model(**read_spec(Path(path))[0].decoder)
    return _read_config(path, "decoder.path")


def read_decoder_width(path: str | Path) -> int:
    """Return D, the width of a decoder's embeddings, from its configuration alone.

    Raises:
        InputError: There is no such model.
    """
    return int(read_decoder_config(path).get_text_config().hidden_size)


def load_decoder(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str = "sdpa",
    quantization: BitsAndBytesConfig | None = None,
    device: torch.device | str = "cpu",
) -> CausalDecoder:
    """Return the language model of a transformers folder or hub name, or of a folder in the original's layout.

    Args:
        path: The folder or name.
        dtype: Of the weights, of those that stay in 16 or 32 bits if it is quantized.
        attn_implementation: As transformers names it.
        quantization: How its linear layers are quantized; None leaves them alone.
        device: Where they are quantized, and then lie; one that is not quantized lies on the CPU.

    Raises:
        InputError: No such model, tensors are missing, or it does not have this attention.
    """
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
    if quantization is not None:
        options |= {"quantization_config": quantization, "device_map": {"": device}}
    if is_original(Path(path)):
        return build_original_decoder(Path(path), read_weights(path), **options)
    if is_artifact(Path(path)):
        own = AutoConfig.for_model(**read_spec(Path(path))[0].decoder)
        options |= {"config": own, "state_dict": read_part(Path(path), "decoder.model.")}
        field = f"decoder.path: {path}"
        return CausalDecoder(_from_pretrained(MODEL_FOR_CAUSAL_LM_MAPPING[type(own)], None, field, **options))
    config = _read_config(path, "decoder.path")
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"decoder.path: {path}: its weights are quantized; give those that they were made from, and choose with "
            "model.decoder.quantization"
        )
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    flag = ATTENTION_FLAGS.get(attn_implementation)
    if flag is not None and not getattr(model_class, flag, True):
        raise InputError(
            f"model.decoder.attention: {model_class.__name__} has no {attn_implementation}; expected eager"
        )
    return CausalDecoder(_from_pretrained(AutoModelForCausalLM, path, "decoder.path", **options))


def _load_own_encoder(
    folder: Path, config: VisionConfig, select_layer: int, select_feature: SelectFeature, dtype: torch.dtype
) -> VisionEncoder:
    """Return the encoder of a folder of this project, which was cut when it was written.

    Raises:
        InputError: Another hidden state is asked for than that which the encoder was cut at, or other positions of it.
    """
    spec, _ = read_spec(folder)
    bases = read_json_object(folder / MANIFEST_FILE).get("base_models", {})
    cut = bases.get("vision_encoder", {}).get("select_layer")
    if select_layer not in (-1, cut) or select_feature != spec.select_feature:
        raise InputError(
            f"vision_encoder.path: {folder}: was made with select_layer {cut} and select_feature "
            f"{spec.select_feature}, found {select_layer} and {select_feature}; give those, or the whole encoder"
        )
    options: dict[str, Any] = {
        "config": config,
        "state_dict": read_part(folder, "vision_encoder.model."),
        "dtype": dtype,
    }
    model = _from_pretrained(vision_class(config), None, f"vision_encoder.path: {folder}", **options)
    return VisionEncoder(cast("VisionModel", model), select_feature)


def vision_class(config: VisionConfig) -> Any:  # noqa: ANN401  a class of transformers
    """Return the class of an encoder, and have it leave out what pools its last layer."""
    if isinstance(config, SiglipVisionConfig):
        config.vision_use_head = False  # it pools the last layer
        return SiglipVisionModel
    return CLIPVisionModel


def build_original_decoder(
    path: Path,
    weights: Mapping[str, Tensor],
    **options: Any,  # noqa: ANN401  as for transformers' from_pretrained
) -> CausalDecoder:
    """Return the language model that a folder in the original's layout describes.

    Args:
        path: The folder, for its settings.
        weights: All of its tensors; the decoder's are picked out.
        **options: `dtype` and whatever else transformers' `from_pretrained` takes.

    Raises:
        InputError: Tensors are missing or left over.
    """
    config = LlamaConfig.from_dict(read_original_config(path).decoder)
    state = decoder_weights(weights)
    field = f"decoder.path: {path}"
    return CausalDecoder(_from_pretrained(LlamaForCausalLM, None, field, config=config, state_dict=state, **options))


def copy_weights(module: nn.Module, weights: Mapping[str, Tensor], *, where: str | Path) -> None:
    """Copy tensors into a module's parameters of the same names, each exactly once.

    Raises:
        InputError: A name is missing or unexpected, or a shape differs.
    """
    own = dict(module.state_dict())
    missing, unexpected = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unexpected:
        raise InputError(f"{where}: tensors do not fit: missing {missing or 'none'}, unexpected {unexpected or 'none'}")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise InputError(
                f"{where}: tensor {name!r}: expected shape {tuple(tensor.shape)}, found {tuple(weights[name].shape)}"
            )
        tensor.copy_(weights[name])


def _read_config(path: str | Path, field: str) -> Any:  # noqa: ANN401  any of transformers' configuration classes
    folder = Path(path)
    is_folder_meant = folder.is_absolute() or str(path).count("/") != 1 or str(path).startswith(".")
    if folder.exists() and not (folder / "config.json").is_file():
        raise InputError(f"{field}: {path}: expected a model folder or hub name, but it has no config.json")
    if not folder.exists() and is_folder_meant:
        raise InputError(f"{field}: {path}: expected a model folder or hub name, but there is no such folder")
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{field}: {path}: expected a model folder or hub name, but {reason}") from error


def _from_pretrained(
    model_class: Any,  # noqa: ANN401  a class of transformers
    path: str | Path | None,
    field: str,
    *,
    allows_rest: bool = False,
    **options: Any,  # noqa: ANN401  as for transformers' from_pretrained
) -> PreTrainedModel:
    """Return a model whose tensors all came from the files, and whose files were all used unless a rest is allowed."""
    where = field if path is None else f"{field}: {path}"
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what transformers lists is looked at below
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, info = model_class.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except Exception as error:  # on damaged files the readers raise anything from OSError to UnpicklingError
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{where}: the model cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if info["mismatched_keys"]:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise InputError(f"{where}: tensor {name!r}: expected shape {tuple(expected)}, found {tuple(found)}")
    # Old LLaMA files hold the rotary frequencies, which are computed today.
    rest = [name for name in info["unexpected_keys"] if not allows_rest and not name.endswith("rotary_emb.inv_freq")]
    for names, problem in ((info["missing_keys"], "missing"), (rest, "left over, with no place in this model")):
        if names:
            raise InputError(f"{where}: {len(names)} tensors are {problem}, such as {min(names)!r}")
    return model  # type: ignore[no-any-return]
