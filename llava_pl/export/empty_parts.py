"""Folders to model parts without a weight: the modules that the loaders of ``parts.py`` return, on torch's meta device.

In: the configuration of a model on disk. Out: its modules, whose parameters have shape and dtype and take no memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM

from llava_pl.export.artifact import is_artifact
from llava_pl.export.parts import read_decoder_config, read_vision_config, vision_class
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.vision_encoder import SelectFeature, VisionEncoder, VisionModel, count_layers_to_run
from llava_pl.types import InputError


def build_empty_encoder(
    path: str | Path, *, select_layer: int, select_feature: SelectFeature, dtype: torch.dtype
) -> VisionEncoder:
    """Return what `parts.load_vision_encoder` returns, on the meta device.

    Raises:
        InputError: There is no configuration of CLIP or SigLIP, or the layer does not exist.
    """
    config = read_vision_config(path)
    if not is_artifact(Path(path)):  # whose encoder was cut when it was written
        config.num_hidden_layers = count_layers_to_run(config.num_hidden_layers, select_layer)
    with torch.device("meta"):
        model = vision_class(config)._from_config(config, dtype=dtype)
    return VisionEncoder(cast("VisionModel", model.eval()), select_feature)


def build_empty_decoder(path: str | Path, *, dtype: torch.dtype, attn_implementation: str) -> CausalDecoder:
    """Return what `parts.load_decoder` returns, on the meta device.

    Raises:
        InputError: There is no such model, or it does not have this attention.
    """
    # Where flash_attn is not installed transformers refuses the word; shapes and memory are those of sdpa.
    attention = "sdpa" if attn_implementation == "flash_attention_2" else attn_implementation
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    config = read_decoder_config(path)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **options)  # type: ignore[no-untyped-call]
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"decoder.path: {path}: the model cannot be built with attention {attention}: {reason}"
        ) from error
    return CausalDecoder(model.eval())
