"""Folders to model parts: vision encoder, decoder and projector, each from its own place on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)

from llava_pl.export.artifact import is_artifact, read_part
from llava_pl.export.assemble import find_attention
from llava_pl.export.original import decoder_weights, is_original
from llava_pl.export.part_configs import cut_vision_config, read_decoder_config, vision_class
from llava_pl.export.quiet import silenced
from llava_pl.export.streaming import WeightStream
from llava_pl.export.weights import fetch_weights, read_weights, weight_files
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.vision_encoder import (
    SelectFeature,
    VisionEncoder,
    VisionModel,
)
from llava_pl.types import InputError


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
    config = cut_vision_config(path, select_layer, select_feature)
    options: dict[str, Any] = {"config": config, "dtype": dtype}
    if is_artifact(Path(path)):
        options["state_dict"] = read_part(Path(path), "vision_encoder.model.")
        model = _from_pretrained(vision_class(config), None, f"vision_encoder.path: {path}", **options)
    else:  # text part, projection and upper layers are expected to be left over
        model = _from_pretrained(vision_class(config), path, "vision_encoder.path", allows_rest=True, **options)
    return VisionEncoder(cast("VisionModel", model), select_feature)


def load_decoder(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = "sdpa",
    quantization: BitsAndBytesConfig | None = None,
    device: torch.device | str = "cpu",
    stream: WeightStream | None = None,
) -> CausalDecoder:
    """Return the language model of a transformers folder or hub name, or of a folder in the original's layout.

    Args:
        path: The folder or name.
        dtype: Of the weights, of those that stay in 16 or 32 bits if it is quantized.
        attn_implementation: As transformers names it; None for one that the model has.
        quantization: How its linear layers are quantized; None leaves them alone.
        device: Where they are quantized, and then lie; one that is not quantized lies on the CPU.
        stream: What then fills the model, which is returned without its weights; None to read them now.

    Raises:
        InputError: No such model, tensors are missing, or it does not have this attention.
    """
    config = read_decoder_config(path, attention=attn_implementation)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation or find_attention(config)}
    if quantization is not None:
        options |= {"quantization_config": quantization, "device_map": {"": device}}
    if is_original(Path(path)):
        return build_original_decoder(
            Path(path), read_weights(path, is_mapped=stream is not None), stream=stream, **options
        )
    if is_artifact(Path(path)):
        weights = read_part(Path(path), "decoder.model.", is_checked=stream is None)
        return _build_decoder(weights, f"decoder.path: {path}", stream, config=config, **options)
    if stream is None:
        return CausalDecoder(_from_pretrained(AutoModelForCausalLM, path, "decoder.path", **options))
    _in_field("decoder.path", weight_files, folder := fetch_weights(path))
    decoder = _build_decoder(
        read_weights(folder, is_mapped=True), f"decoder.path: {path}", stream, config=config, **options
    )
    decoder.model.config.name_or_path = str(path)
    with suppress(OSError):  # without a file of its own it is as the configuration says
        decoder.model.generation_config = GenerationConfig.from_pretrained(path)
    return decoder


def build_original_decoder(
    path: Path,
    weights: Mapping[str, Tensor],
    *,
    stream: WeightStream | None = None,
    **options: Any,  # noqa: ANN401  as for transformers' from_pretrained
) -> CausalDecoder:
    """Return the language model that a folder in the original's layout describes.

    Args:
        path: The folder, for its settings.
        weights: All of its tensors; the decoder's are picked out.
        stream: As for `load_decoder`.
        **options: `dtype` and whatever else transformers' `from_pretrained` takes.

    Raises:
        InputError: Tensors are missing or left over.
    """
    config = read_decoder_config(path)
    return _build_decoder(decoder_weights(weights), f"decoder.path: {path}", stream, config=config, **options)


def _build_decoder(
    weights: dict[str, Tensor],
    field: str,
    stream: WeightStream | None,
    *,
    config: Any,  # noqa: ANN401  of transformers
    dtype: torch.dtype,
    **options: Any,  # noqa: ANN401  as for transformers' from_pretrained
) -> CausalDecoder:
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    options |= {"config": config, "dtype": dtype}
    if stream is None:
        return CausalDecoder(_from_pretrained(model_class, None, field, state_dict=weights, **options))
    stream.where = field
    stand_ins = stream.stand_ins(weights, dtype)
    model = _from_pretrained(model_class, None, field, state_dict=stand_ins, **options)
    stream.follow(model, stand_ins, weights)
    return CausalDecoder(model)


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


def _in_field(field: str, read: Callable[[Path], object], folder: Path) -> None:
    try:
        read(folder)
    except InputError as error:
        raise InputError(f"{field}: {error}") from error


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
    folder = None if path is None or not Path(path).is_dir() else Path(path)
    if folder is not None:
        _in_field(field, weight_files, folder)
    try:
        with silenced():  # what transformers lists is looked at below
            model, info = model_class.from_pretrained(
                path, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except Exception as error:  # on damaged files the readers raise anything from OSError to UnpicklingError
        if folder is not None:
            _in_field(field, read_weights, folder)  # which says it in our words, unless the files are not to blame
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if isinstance(error, UnpicklingError):
            reason = "expected weights of plain tensors, but a file holds objects that run code, or is something else"
        raise InputError(f"{where}: the model cannot be loaded: {reason}") from error
    if info["mismatched_keys"]:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise InputError(f"{where}: tensor {name!r}: expected shape {tuple(expected)}, found {tuple(found)}")
    # Old LLaMA files hold the rotary frequencies, which are computed today.
    rest = [name for name in info["unexpected_keys"] if not allows_rest and not name.endswith("rotary_emb.inv_freq")]
    for names, problem in ((info["missing_keys"], "missing"), (rest, "left over, with no place in this model")):
        if names:
            raise InputError(f"{where}: {len(names)} tensors are {problem}, such as {min(names)!r}")
    return model  # type: ignore[no-any-return]
