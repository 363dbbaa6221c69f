"""Folders in the original LLaVA's layout: a whole model, or a projector beside the language model that it belongs to.

In, out: a `Pretrained` and a folder that the original's code reads. What the names and settings in it mean is in
``export/original.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.settings import DataSettings
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.data.templates import TemplateName
from llava_pl.export.certificate import probe
from llava_pl.export.manifest import check_tensors, origin_of, read_manifest, settings_of
from llava_pl.export.original import (
    EMBEDDING_NAME,
    NEWLINE_NAME,
    PROJECTOR_FILE,
    TOWER_FOLDER,
    OriginalConfig,
    encoder_weights,
    find_newline,
    is_original,
    projector_weights,
    read_original_config,
)
from llava_pl.export.parts import build_original_decoder, copy_weights, load_decoder, load_vision_encoder
from llava_pl.export.pretrained import BaseModel, Pretrained
from llava_pl.export.tokenizer_files import find_tokenizer, read_sentencepiece
from llava_pl.export.weights import (
    check_weights,
    has_weights,
    hash_weights,
    read_weights,
)
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.models.vocabulary import add_rows
from llava_pl.types import InputError

AS_ON_DISK: Any = "auto"
"""What transformers understands as the dtype that a model's own files have."""


def is_projector(folder: Path) -> bool:
    """Whether a folder in the original's layout holds what stage 1 learned and no more.

    Released folders hold the projector's file beside the whole model, too.
    """
    return not has_weights(folder) and (folder / PROJECTOR_FILE).is_file()


def read_original(
    folder: Path,
    *,
    vision_encoder: str | Path | None = None,
    base: str | Path | None = None,
    dtype: torch.dtype | None = None,
    traces: bool = False,
) -> Pretrained:
    """Return the model of a folder.

    Args:
        folder: A whole model (`config.json` with safetensors or `.bin` weights), or a stage-1 folder with
            `mm_projector.bin`, which needs its language model.
        vision_encoder: The encoder's folder or hub name; by default what `config.json` names, looked for inside and
            beside the folder first. LLaVA: these weights are used even when the model's file holds a copy, unless
            `config.json` says that the tower was trained too (LLaVA-1.6).
        base: The language model of a stage-1 folder.
        dtype: Of the weights; as on disk when None.
        traces: Keep hashes of the bases, and what a stage-1 model answers before its projector is put in.

    Raises:
        InputError: A part is missing, does not fit, or is not the base that the folder was made from.
    """
    config, manifest = read_original_config(folder), read_manifest(folder)
    is_projector_only = is_projector(folder)
    if is_projector_only and base is None:
        raise InputError(f"{folder}: holds a projector alone; give the language model it was trained with as base=")
    if base is not None and not is_projector_only:
        raise InputError(f"{folder}: holds a whole model; base= is for folders that hold a projector or a LoRA alone")
    # Once for both parts: at 7B the files are 14 GB.
    weights_path = folder / PROJECTOR_FILE if is_projector_only else folder
    weights = read_weights(weights_path)
    check_weights(weights, weights_path)
    check_tensors(manifest, weights, folder)
    if base is None:
        decoder = _read_decoder(folder, weights, dtype)
    else:
        check_base(folder, origin_of(manifest, "projector", folder).bases.get("decoder"), base)
        decoder = read_base(base, dtype)
    built = build_parts(
        folder, config, manifest, decoder, base=base, vision_encoder=vision_encoder, dtype=dtype, traces=traces,
        template="plain" if is_projector_only else "vicuna_v1",
    )  # fmt: skip
    model, origin = built.model, built.origin
    if is_projector_only:
        trained = [f"projector.{name}" for name in model.projector.state_dict()]
        trained += ["decoder.model." + EMBEDDING_NAME] if EMBEDDING_NAME in weights else []
        # Where no tokenizer tells of marks, the file does.
        add_rows(decoder, range(decoder.num_embeddings, len(weights.get(EMBEDDING_NAME, ()))))
        answers = probe(model) if traces else ()
        origin = replace(origin, layout="projector", trained=tuple(trained), base_answers=answers)
        _restore_embeddings(decoder, weights, weights_path)
    elif config.has_own_encoder:
        # Layers above the selected one are in the file, but not in the encoder.
        own = model.vision_encoder.model.state_dict()
        found = {name: tensor for name, tensor in encoder_weights(weights).items() if name in own}
        copy_weights(model.vision_encoder.model, found, where=weights_path)
    if is_projector_only or config.projector != "identity":
        found = projector_weights(weights, weights_path)
        copy_weights(model.projector.to(dtype or next(iter(found.values())).dtype), found, where=weights_path)
    if config.aspect == "anyres":
        model.image_newline = _restore_newline(weights, decoder.width, weights_path, dtype)
    return replace(built, model=model.eval().requires_grad_(False), origin=origin)


def build_parts(
    folder: Path,
    config: OriginalConfig,
    manifest: Mapping[str, Any] | None,
    decoder: CausalDecoder,
    *,
    base: str | Path | None,
    vision_encoder: str | Path | None,
    dtype: torch.dtype | None,
    traces: bool,
    template: TemplateName = "vicuna_v1",
) -> Pretrained:
    """Return what a folder and its bases make together, the projector still fresh.

    Args:
        folder: Where a tower is looked for.
        config: Its settings.
        manifest: What it says about itself, None if it says nothing.
        decoder: The language model.
        base: Where that came from; None where it is the folder's own.
        vision_encoder: As for `read_original`.
        dtype: Of the weights; as on disk when None.
        traces: Keep hashes of the bases.
        template: Of the conversations, where no manifest says it.
    """
    tower = vision_encoder or find_tower(folder, config.vision_encoder)
    encoder = load_vision_encoder(
        tower, select_layer=config.select_layer, select_feature=config.select_feature, dtype=dtype or AS_ON_DISK
    )
    transform = ImageTransform.from_pretrained(tower, aspect="pad" if config.aspect == "pad" else "square")
    projector = build_projector(config.projector, vision_width=encoder.width, decoder_width=decoder.width)
    newline = nn.Parameter(torch.zeros(decoder.width)) if config.aspect == "anyres" else None
    origin = origin_of(manifest, "llava", folder)
    if traces:
        bases = {} if base is None else {"decoder": BaseModel(name_of(base), hash_weights(base), path=str(base))}
        # The encoder inside an exported folder is cut; what it was cut from, its manifest tells.
        if Path(tower).name != TOWER_FOLDER:
            bases["vision_encoder"] = BaseModel(name_of(tower), hash_weights(tower), config.select_layer, str(tower))
        origin = replace(origin, bases={**origin.bases, **bases})
    settings = settings_of(manifest, folder) or DataSettings(
        template=template,
        image_aspect=config.aspect,
        grid_pinpoints=config.pinpoints or None,
        image_start_end=config.has_marks,
        respect_exif=False,  # LLaVA: its models have seen photographs as the sensor lay
    )
    is_tiled = config.aspect == "anyres"
    tokenizer = find_tokenizer(folder, base, legacy=settings.legacy_tokenizer)
    if tokenizer is not None:  # that of a base has none of these
        new = add_image_tokens(tokenizer, image_patch_token=config.has_patch_word, image_start_end=config.has_marks)
        if base is not None:  # nor has its decoder, as when training began
            add_rows(decoder, new)
    return Pretrained(
        model=LlavaModel(encoder, projector.to(decoder.embedding.weight.dtype), decoder, newline).eval(),
        tokenizer=tokenizer,
        image_transform=transform,
        settings=settings,
        projector=config.projector,
        tiling=Tiling(transform.image_size, encoder.num_patches, config.pinpoints) if is_tiled else None,
        origin=replace(origin, sentencepiece=read_sentencepiece(folder, base)),
    )


def find_tower(folder: Path, name: str) -> str | Path:
    """Return the encoder that a folder names: inside it, beside it, or wherever the name leads."""
    for place in (folder / TOWER_FOLDER if Path(name).name == TOWER_FOLDER else None, folder.parent / name):
        if place is not None and place.is_dir():
            return place
    return name


def check_base(folder: Path, expected: BaseModel | None, base: str | Path) -> None:
    """Check that a base is the one that a folder was trained on, where both are known.

    Raises:
        InputError: It is another.
    """
    found = hash_weights(base)
    if expected is not None and None not in (expected.sha256, found) and expected.sha256 != found:
        raise InputError(
            f"{folder}: wrong base: expected {expected.name} (sha256 {str(expected.sha256)[:12]}), found {base} "
            f"({str(found)[:12]})"
        )


def read_base(path: str | Path, dtype: torch.dtype | None) -> CausalDecoder:
    """Return a language model that a projector or a LoRA belongs to, in the dtype of its files when None is given."""
    if is_original(Path(path)):
        return _read_decoder(Path(path), read_weights(path), dtype)
    return load_decoder(path, dtype=dtype or AS_ON_DISK)


def name_of(path: str | Path) -> str:
    """Return how a manifest calls a model: by its hub name, or by the name of its folder on whatever machine."""
    return Path(path).resolve().name if Path(path).exists() else str(path)


def _read_decoder(folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> CausalDecoder:
    """Return the decoder in a folder, each tensor in the dtype of its file when None is given."""
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    widest = next(iter(dtypes)) if len(dtypes) == 1 else torch.float32
    decoder = build_original_decoder(folder, weights, dtype=dtype or widest)
    for name, parameter in decoder.model.named_parameters():
        if dtype is None and name in weights:
            parameter.data = parameter.data.to(weights[name].dtype)
    return decoder


def _restore_embeddings(decoder: CausalDecoder, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put back the word embeddings that stage 1 trains when image slots have start and end marks."""
    embeddings = weights.get(EMBEDDING_NAME)
    if embeddings is None:
        return
    own = decoder.embedding.weight
    if own.shape != embeddings.shape:
        raise InputError(
            f"{path}: tensor {EMBEDDING_NAME!r}: expected shape {tuple(own.shape)}, found {tuple(embeddings.shape)}"
        )
    own.data.copy_(embeddings)


def _restore_newline(weights: Mapping[str, Tensor], width: int, path: Path, dtype: torch.dtype | None) -> nn.Parameter:
    newline = find_newline(weights)
    if newline is None or newline.shape != (width,):
        found = "none" if newline is None else f"shape {tuple(newline.shape)}"
        raise InputError(f"{path}: tensor {NEWLINE_NAME!r}: expected shape {(width,)}, found {found}")
    return nn.Parameter(newline.to(dtype or newline.dtype))
