"""The original LLaVA's layout on disk: its names and settings, and what they are called here.

Original spellings (`mm_projector`, `mm_vision_tower`, ...) live in this file alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from torch import Tensor

from llava_pl.data.json_files import read_json
from llava_pl.data.settings import DataSettings
from llava_pl.export.assemble import ModelSpec
from llava_pl.models.projector import ORIGINAL_KINDS
from llava_pl.models.vision_encoder import SelectFeature
from llava_pl.types import InputError

PROJECTOR_FILE = "mm_projector.bin"
PROJECTOR_PREFIX = "model.mm_projector."
VISION_PREFIX = "model.vision_tower.vision_tower."
NEWLINE_NAME = "model.image_newline"
ORIGINAL_NAMES = (("projector.", PROJECTOR_PREFIX), ("image_newline", NEWLINE_NAME), ("decoder.model.", ""))
"""Beginnings of names in this project, and in the original's files; on the way back the first that fits counts."""

TOWER_FOLDER = "vision_tower"
"""Where an exported folder keeps its encoder; the original reads it from a folder of its own, never from the model's
weights."""
MAX_LENGTH = 2048
"""Positions of a row where no setting says it."""
FAMILIES = {"llava_llama": "llama", "llava": "llama", "llama": "llama", "llava_mistral": "mistral"}
"""Decoders by the original's `model_type` of a whole model; a part of one does not depend on its decoder."""


@dataclass(frozen=True, slots=True)
class OriginalConfig:
    """What the original's `config.json` says beside the decoder's own settings.

    Args:
        vision_encoder: Name or folder of the vision tower.
        projector: Kind of projector.
        select_layer: Which hidden state of the encoder is used.
        select_feature: Which of its positions are used.
        aspect: How pictures become square, or "anyres" where they are cut into tiles.
        decoder: The settings of the decoder.
        pinpoints: With "anyres", the sizes (width, height) that pictures are brought to before they are cut.
        has_own_encoder: The vision tower was trained too (LLaVA-1.6): the model's file holds its weights.
        has_marks: Start and end marks stand around image slots.
        has_patch_word: The vocabulary has a word that no prompt holds, before the marks.
        projector_options: Settings of the projector, which the original's own have none of.
        family: What transformers calls the decoder's kind.
    """

    vision_encoder: str
    projector: str
    select_layer: int
    select_feature: SelectFeature
    aspect: Literal["pad", "square", "anyres"]
    decoder: dict[str, Any]
    pinpoints: tuple[tuple[int, int], ...] = ()
    has_own_encoder: bool = False
    has_marks: bool = False
    has_patch_word: bool = False
    projector_options: dict[str, Any] = field(default_factory=dict)
    family: str = "llama"


def is_original(folder: Path) -> bool:
    """Whether a folder holds a model in the original's layout; its name plays no part."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and "mm_vision_tower" in config


def read_original_config(folder: Path, *, is_part: bool = False) -> OriginalConfig:
    """Return the settings in a folder's `config.json`.

    Args:
        folder: In the original's layout.
        is_part: It holds a projector or a LoRA alone: its decoder may be any, and its projector one of this project's.

    Raises:
        InputError: The file is missing, or a whole model is of none of the original's variants for LLaMA and Mistral.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not is_original(folder) or not (is_part or config.get("model_type") in FAMILIES):
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise InputError(
            f"{path}: expected model_type 'llava_llama' or 'llava_mistral' with mm_vision_tower, found {found!r}"
        )
    select_feature = config.get("mm_vision_select_feature", "patch")
    if select_feature not in get_args(SelectFeature):
        raise InputError(f"{path}: mm_vision_select_feature: expected patch or cls_patch, found {select_feature!r}")
    for key, kind in (
        ("mm_vision_tower", str),
        ("mm_projector_type", str),
        ("mm_projector_options", dict),
        ("mm_vision_select_layer", int),
    ):
        if not isinstance(config.get(key, kind()), kind):
            raise InputError(f"{path}: {key}: expected {kind.__name__}, found {config[key]!r}")
    projector = config.get("mm_projector_type", "linear")
    if not is_part and not ORIGINAL_KINDS.fullmatch(projector):
        raise InputError(f"{path}: mm_projector_type: expected linear, mlp{{N}}x_gelu or identity, found {projector!r}")
    aspect = config.get("image_aspect_ratio") or "square"
    if aspect not in ("pad", "square", "anyres"):
        raise InputError(f"{path}: image_aspect_ratio: expected pad, square or anyres, found {aspect!r}")
    merge = config.get("mm_patch_merge_type", "flat")
    if aspect == "anyres" and merge != "spatial_unpad":
        raise InputError(f"{path}: mm_patch_merge_type: expected spatial_unpad with anyres, found {merge!r}")
    return OriginalConfig(
        vision_encoder=config["mm_vision_tower"],
        projector=projector,
        select_layer=config.get("mm_vision_select_layer", -1),
        select_feature=select_feature,
        aspect=cast("Literal['pad', 'square', 'anyres']", aspect),
        decoder={key: value for key, value in config.items() if not key.startswith(("mm_", "image_", "model_type"))},
        pinpoints=_read_pinpoints(config, path) if aspect == "anyres" else (),
        has_own_encoder=bool(config.get("unfreeze_mm_vision_tower")),
        has_marks=bool(config.get("mm_use_im_start_end")),
        has_patch_word=bool(config.get("mm_use_im_patch_token")),
        projector_options=config.get("mm_projector_options", {}),
        family=FAMILIES.get(config.get("model_type"), "llama"),
    )


def projector_weights(weights: Mapping[str, Tensor], where: str | Path) -> dict[str, Tensor]:
    """Return the projector's tensors under this project's names.

    Raises:
        InputError: There are none.
    """
    name = PROJECTOR_PREFIX.removeprefix("model.")
    # The second is that of an MPT.
    found = next((own for start in ("model.", "transformer.", "") if (own := _strip(weights, start + name))), None)
    if not found:
        raise InputError(f"{where}: expected tensors named '{PROJECTOR_PREFIX}*', found {_sample(weights)}")
    return found


def encoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the vision tower under the names of transformers' CLIP vision model."""
    found = _strip(weights, VISION_PREFIX)
    return {name.removeprefix("vision_model."): tensor for name, tensor in found.items()}


def find_newline(weights: Mapping[str, Tensor]) -> Tensor | None:
    """Return the newline embedding ``(D,)`` of a model that tiles its pictures, None if there is none."""
    return weights.get(NEWLINE_NAME, weights.get(NEWLINE_NAME.removeprefix("model.")))


def decoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the language model's tensors, which keep their names."""
    return {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith((PROJECTOR_PREFIX, VISION_PREFIX)) and name != NEWLINE_NAME
    }


def original_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors under the original's names, without those of the encoder."""
    return {
        new + name.removeprefix(old): tensor
        for name, tensor in weights.items()
        for old, new in ORIGINAL_NAMES
        if name.startswith(old)
    }


def own_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that `original_weights` has named under the names that they have here."""
    own = {}
    for name, tensor in weights.items():
        old, new = next((old, new) for old, new in ORIGINAL_NAMES if name.startswith(new))
        own[old + name.removeprefix(new)] = tensor
    return own


def find_unknown(spec: ModelSpec, settings: DataSettings) -> str | None:
    """Return the first part of a model that the original's code does not know, None if it knows all of them."""
    decoder = spec.decoder
    rope = (decoder.get("rope_parameters") or {}).get("rope_type", "default")
    if decoder["model_type"] not in FAMILIES.values():
        return f"decoder of {decoder['model_type']}"
    if rope not in ("default", "linear", "dynamic"):
        return f"rotary embedding {rope!r}"
    if decoder.get("head_dim") not in (None, decoder["hidden_size"] // decoder["num_attention_heads"]):
        return f"attention heads of width {decoder['head_dim']}"
    # Its transformers computes a window in eager attention alone, which is not what its code asks for.
    if 0 < (decoder.get("sliding_window") or 0) < (settings.max_length or MAX_LENGTH):
        return f"attention window of {decoder['sliding_window']} positions, shorter than data.max_length"
    if not ORIGINAL_KINDS.fullmatch(spec.projector):
        return f"projector {spec.projector!r}"
    if spec.vision_encoder["model_type"] != "clip_vision_model":
        return f"encoder of {spec.vision_encoder['model_type'].removesuffix('_vision_model')}"
    return None


def original_config(
    spec: ModelSpec, settings: DataSettings, tower: str, dtype: str, *, has_patch_word: bool = False
) -> dict[str, Any]:
    """Return the `config.json` from which the original's code builds a model; see `find_unknown` for which it can.

    Args:
        spec: The model.
        settings: How its pictures are prepared.
        tower: Folder of its encoder, cut to the layers that run.
        dtype: Name of its dtype.
        has_patch_word: Whether its tokenizer has been given ``<im_patch>``.
    """
    decoder = dict(spec.decoder)
    family = decoder.pop("model_type")
    rope = dict(decoder.pop("rope_parameters", None) or {})
    theta, kind = rope.pop("rope_theta", 10000.0), rope.get("rope_type", "default")
    scaling = {"type": kind, "factor": rope.get("factor")} if kind in ("linear", "dynamic") else rope
    is_tiled = settings.image_aspect == "anyres"
    return {
        **decoder,
        "architectures": [f"Llava{family.capitalize()}ForCausalLM"],
        "model_type": f"llava_{family}",
        "torch_dtype": dtype,
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else scaling,
        "mm_vision_tower": tower,
        "mm_hidden_size": spec.vision_encoder["hidden_size"],
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": spec.select_feature,
        "mm_projector_type": spec.projector,
        **({"mm_projector_options": dict(spec.projector_options)} if spec.projector_options else {}),
        "mm_patch_merge_type": "spatial_unpad" if is_tiled else "flat",
        "mm_use_im_start_end": settings.image_start_end,
        "mm_use_im_patch_token": has_patch_word,
        "use_mm_proj": True,
        "image_aspect_ratio": settings.image_aspect,
        **({"image_grid_pinpoints": [list(pair) for pair in settings.grid_pinpoints or ()]} if is_tiled else {}),
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": settings.max_length or MAX_LENGTH,
    }


def _read_pinpoints(config: dict[str, Any], path: Path) -> tuple[tuple[int, int], ...]:
    found = config.get("image_grid_pinpoints")
    pairs: list[Any] = found if isinstance(found, list) else [None]
    if not all(isinstance(pair, list) and [type(side) for side in pair] == [int, int] for pair in pairs):
        raise InputError(f"{path}: image_grid_pinpoints: expected a list of [width, height], found {found!r}")
    return tuple((width, height) for width, height in pairs)


def _strip(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _sample(weights: Mapping[str, Tensor]) -> str:
    return f"{len(weights)} others, such as {next(iter(weights))!r}" if weights else "none at all"
