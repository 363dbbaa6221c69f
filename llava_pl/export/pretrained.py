"""A folder to a model that can be asked: weights, tokenizer, picture transform and template together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.templates import TemplateName
from llava_pl.export.original import (
    EMBEDDING_NAME,
    NEWLINE_NAME,
    PROJECTOR_FILE,
    encoder_weights,
    find_newline,
    is_original,
    projector_weights,
    read_original_config,
)
from llava_pl.export.parts import build_original_decoder, copy_weights, load_decoder, load_vision_encoder
from llava_pl.export.weights import has_weights, read_weights
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.types import InputError


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A loaded model and what belongs to it.

    Args:
        model: The weights, in eval mode.
        tokenizer: None when neither the folder nor its base holds one.
        image_transform: Pictures to ``pixel_values``, as the model was trained.
        tiling: How pictures are cut into tiles, each of which `image_transform` then takes (LLaVA-1.6); None when a
            model sees them whole.
        template: Name of the conversation template; no file says it, so it is "plain" for a stage-1 folder and
            "vicuna_v1", LLaVA-1.5's, for every other.
    """

    model: LlavaModel
    tokenizer: PreTrainedTokenizerBase | None
    image_transform: ImageTransform
    template: TemplateName
    tiling: Tiling | None = None


def load_pretrained(
    path: str | Path,
    *,
    vision_encoder: str | Path | None = None,
    base: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> Pretrained:
    """Return the model of a folder in the original LLaVA's layout.

    A whole model (`config.json` with safetensors or `.bin` weights), or a stage-1 folder with `mm_projector.bin`, which
    needs its language model as `base`. What a folder is, its files decide, never its name.

    Args:
        path: The folder.
        vision_encoder: The encoder's folder or hub name; by default what `config.json` names, looked for beside the
            folder first. LLaVA: these weights are used even when the model's file holds a copy, unless `config.json`
            says that the tower was trained too (LLaVA-1.6).
        base: The language model of a stage-1 folder.
        dtype: Of the weights.

    Raises:
        InputError: The folder is no LLaVA model, or a part is missing or does not fit.
    """
    path = Path(path).resolve()  # "." has no name to look beside
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected one with config.json of a LLaVA model")
    if not is_original(path):
        raise InputError(
            f"{path}: expected a config.json with 'mm_vision_tower' (the original LLaVA's layout), found none"
        )
    config = read_original_config(path)
    # Released folders hold the projector's file beside the whole model; it is a stage-1 folder only without the latter.
    is_projector_only = not has_weights(path) and (path / PROJECTOR_FILE).is_file()
    if is_projector_only and base is None:
        raise InputError(f"{path}: holds a projector alone; give the language model it was trained with as base=")
    if base is not None and not is_projector_only:
        raise InputError(f"{path}: holds a whole model; base= is for folders with {PROJECTOR_FILE} alone")
    encoder_path = vision_encoder or _beside(path, config.vision_encoder)
    encoder = load_vision_encoder(
        encoder_path, select_layer=config.select_layer, select_feature=config.select_feature, dtype=dtype
    )
    is_tiled = config.aspect == "anyres"
    transform = ImageTransform.from_pretrained(encoder_path, aspect="pad" if config.aspect == "pad" else "square")
    # The projectors of the original make one image token of each patch feature.
    tiling = Tiling(transform.image_size, encoder.num_patches, config.pinpoints) if is_tiled else None
    # Once for both parts: at 7B the files are 14 GB.
    weights_path = path / PROJECTOR_FILE if is_projector_only else path
    weights = read_weights(weights_path)
    if config.has_own_encoder and not is_projector_only:
        # Layers above the selected one are in the file, but not in the encoder.
        own = encoder.model.state_dict()
        found = {name: tensor for name, tensor in encoder_weights(weights).items() if name in own}
        copy_weights(encoder.model, found, where=weights_path)
    decoder = build_original_decoder(path, weights, dtype=dtype) if base is None else load_decoder(base, dtype=dtype)
    projector = build_projector(config.projector, vision_width=encoder.width, decoder_width=decoder.width).to(dtype)
    if is_projector_only or config.projector != "identity":
        copy_weights(projector, projector_weights(weights, weights_path), where=weights_path)
    if is_projector_only:
        _restore_embeddings(decoder, weights, weights_path)
    newline = _restore_newline(weights, decoder.width, weights_path, dtype) if tiling else None
    return Pretrained(
        model=LlavaModel(encoder, projector, decoder, newline).eval(),
        tokenizer=_find_tokenizer(path, base),
        image_transform=transform,
        template="plain" if is_projector_only else "vicuna_v1",
        tiling=tiling,
    )


def _beside(folder: Path, name: str) -> str | Path:
    beside = folder.parent / name
    return beside if beside.is_dir() else name


def _restore_embeddings(decoder: CausalDecoder, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put back the word embeddings that stage 1 trains when image slots have start and end marks.

    The two new rows are the last; a base without them grows by two, as the original does.
    """
    embeddings = weights.get(EMBEDDING_NAME)
    if embeddings is None:
        return
    num_words = decoder.embedding.num_embeddings
    if num_words < len(embeddings):
        decoder.model.resize_token_embeddings(len(embeddings), mean_resizing=False)
        decoder.head.weight.data[num_words:] = decoder.head.weight.data[:num_words].mean(dim=0)
    own = decoder.embedding.weight
    if own.shape != embeddings.shape:
        raise InputError(
            f"{path}: tensor {EMBEDDING_NAME!r}: expected shape {tuple(own.shape)}, found {tuple(embeddings.shape)}"
        )
    own.data.copy_(embeddings)


def _restore_newline(weights: Mapping[str, Tensor], width: int, path: Path, dtype: torch.dtype) -> nn.Parameter:
    newline = find_newline(weights)
    if newline is None or newline.shape != (width,):
        found = "none" if newline is None else f"shape {tuple(newline.shape)}"
        raise InputError(f"{path}: tensor {NEWLINE_NAME!r}: expected shape {(width,)}, found {found}")
    return nn.Parameter(newline.to(dtype))


def _find_tokenizer(*places: str | Path | None) -> PreTrainedTokenizerBase | None:
    for place in places:
        if place is None:
            continue
        is_hub_name = not Path(place).exists()
        if is_hub_name or any((Path(place) / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
            return load_tokenizer(place)
    return None
