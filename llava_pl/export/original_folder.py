"""Folders in the original LLaVA's layout: a whole model, or a projector beside the language model that it belongs to.

In, out: a `Pretrained` and a folder that the original's code reads. What the names and settings in it mean is in
``export/original.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.settings import DataSettings
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.data.templates import TemplateName
from llava_pl.export.artifact import check_projector
from llava_pl.export.bases import check_base, describe_base
from llava_pl.export.certificate import probe
from llava_pl.export.manifest import check_tensors, check_trained, origin_of, read_manifest, settings_of
from llava_pl.export.original import (
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
from llava_pl.export.pretrained import Pretrained
from llava_pl.export.tokenizer_files import find_tokenizer, read_sentencepiece
from llava_pl.export.weights import (
    check_weights,
    has_weights,
    read_weights,
)
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.models.vocabulary import add_rows, set_rows
from llava_pl.types import IMAGE_END, IMAGE_PATCH, IMAGE_START, InputError

BASE = "--base MODEL, from Python base="
"""How the language model of a folder is given that holds a part alone."""

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
    unsafe: bool = False,
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
        unsafe: Import the class that a stage-1 folder names as its projector, which runs that class's code.

    Raises:
        InputError: A part is missing, does not fit, or is not the base that the folder was made from.
    """
    is_projector_only = is_projector(folder)
    config, manifest = read_original_config(folder, is_part=is_projector_only), read_manifest(folder)
    if is_projector_only and base is None:
        raise InputError(f"{folder}: holds a projector alone; give the language model it was trained with: {BASE}")
    if base is not None and not is_projector_only:
        raise InputError(f"{folder}: holds a whole model; no base belongs to it ({BASE})")
    # Once for both parts: at 7B the files are 14 GB.
    weights_path = folder / PROJECTOR_FILE if is_projector_only else folder
    weights = read_weights(weights_path)
    check_weights(weights, weights_path)
    check_tensors(manifest, weights, folder)
    if base is None:
        decoder = _read_decoder(folder, weights, dtype)
    else:
        check_base(
            "decoder", origin_of(manifest, "projector", folder).bases.get("decoder"), describe_base(base), folder
        )
        decoder = read_base(base, dtype)
    built = build_parts(
        folder, config, manifest, decoder, base=base, vision_encoder=vision_encoder, dtype=dtype, traces=traces,
        template="plain" if is_projector_only else "vicuna_v1", unsafe=unsafe,
    )  # fmt: skip
    model, origin = built.model, built.origin
    if is_projector_only:
        trained, table = [f"projector.{name}" for name in model.projector.state_dict()], decoder.embedding_name
        trained += [f"decoder.model.{table}"] if table in weights else []
        # A table that is longer makes the base grow, which is asked as it was before its new rows learned.
        add_rows(decoder, range(decoder.num_embeddings, len(weights.get(table, ()))))
        answers = probe(model) if traces else ()
        origin = replace(origin, layout="projector", trained=tuple(trained), base_answers=answers)
        if table in weights:
            restore_embeddings(built, weights[table], weights_path)
    else:
        check_trained(origin, model.state_dict().keys(), folder)
    if base is None and config.has_own_encoder:
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
    unsafe: bool = False,
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
        unsafe: As for `read_original`.
    """
    tower = vision_encoder or find_tower(folder, config.vision_encoder)
    try:
        encoder = load_vision_encoder(
            tower, select_layer=config.select_layer, select_feature=config.select_feature, dtype=dtype or AS_ON_DISK
        )
    except InputError as error:
        if vision_encoder is not None or Path(tower).is_dir():
            raise
        raise InputError(f"{error}; give its place: --vision_encoder MODEL, from Python vision_encoder=") from error
    transform = ImageTransform.from_pretrained(tower, aspect="pad" if config.aspect == "pad" else "square")
    check_projector(config.projector, folder, unsafe=unsafe)
    projector = build_projector(
        config.projector,
        vision_width=encoder.width,
        decoder_width=decoder.width,
        num_patches=encoder.num_patches,
        options=config.projector_options,
    )
    newline = nn.Parameter(torch.zeros(decoder.width)) if config.aspect == "anyres" else None
    origin = origin_of(manifest, "llava", folder)
    if traces:
        bases = {} if base is None else {"decoder": describe_base(base)}
        # The encoder inside an exported folder is cut; what it was cut from, its manifest tells.
        if Path(tower).name != TOWER_FOLDER:
            bases["vision_encoder"] = replace(describe_base(tower), select_layer=config.select_layer)
        origin = replace(origin, bases={**origin.bases, **bases})
    settings = settings_of(manifest, folder) or DataSettings(
        template=template,
        image_aspect=config.aspect,
        grid_pinpoints=config.pinpoints or None,
        image_start_end=config.has_marks,
        respect_exif=False,  # LLaVA: its models have seen photographs as the sensor lay
    )
    is_tiled = config.aspect == "anyres"
    tokenizer, new_token_ids = find_tokenizer(folder, base, legacy=settings.legacy_tokenizer), []
    if tokenizer is not None:  # that of a base has none of these
        marks = {"image_patch_token": config.has_patch_word, "image_start_end": config.has_marks}
        new_token_ids = add_image_tokens(tokenizer, **marks)
    if base is None or (is_original(Path(base)) and read_original_config(Path(base)).has_marks):
        new_token_ids = []  # whatever the tokenizer beside it knows, these have their rows
    add_rows(decoder, new_token_ids)
    model = LlavaModel(encoder, projector.to(decoder.embedding.weight.dtype), decoder, newline, new_token_ids)
    return Pretrained(
        model=model.eval(),
        tokenizer=tokenizer,
        image_transform=transform,
        settings=settings,
        projector=config.projector,
        projector_options=config.projector_options,
        tiling=Tiling(transform.image_size, model.num_image_tokens, config.pinpoints) if is_tiled else None,
        origin=replace(origin, sentencepiece=read_sentencepiece(folder, base)),
    )


def find_tower(folder: Path, name: str) -> str | Path:
    """Return the encoder that a folder names: inside it, beside it, or wherever the name leads."""
    for place in (folder / TOWER_FOLDER if Path(name).name == TOWER_FOLDER else None, folder.parent / name):
        if place is not None and place.is_dir():
            return place
    return name


def read_base(path: str | Path, dtype: torch.dtype | None) -> CausalDecoder:
    """Return a language model that a projector or a LoRA belongs to, in the dtype of its files when None is given."""
    if is_original(Path(path)):
        return _read_decoder(Path(path), read_weights(path), dtype)
    return load_decoder(path, dtype=dtype or AS_ON_DISK, attn_implementation=None)


def _read_decoder(folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> CausalDecoder:
    """Return the decoder in a folder, each tensor in the dtype of its file when None is given."""
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    widest = next(iter(dtypes)) if len(dtypes) == 1 else torch.float32
    decoder = build_original_decoder(folder, weights, dtype=dtype or widest)
    for name, parameter in decoder.model.named_parameters():
        if dtype is None and name in weights:
            parameter.data = parameter.data.to(weights[name].dtype)
    return decoder


def restore_embeddings(pretrained: Pretrained, table: Tensor, where: object) -> None:
    """Put back the word embeddings that a folder holds: a whole table, or the rows of the image marks alone.

    LLaVA: its stage 2 takes either, and a table that is longer than that of the base makes this one grow.

    Args:
        pretrained: Whose decoder is changed.
        table: The rows, ``(V, D)`` or one for each mark.
        where: What an error begins with.

    Raises:
        InputError: They are as many as neither.
    """
    decoder, words = cast("CausalDecoder", pretrained.model.decoder), pretrained.tokenizer
    known = {} if words is None else words.get_vocab()
    ids = [known[word] for word in (IMAGE_PATCH, IMAGE_START, IMAGE_END) if word in known]
    if table.shape[1:] == (decoder.width,) and len(ids) >= len(table) in (2, len(ids)):
        set_rows(decoder.embedding, ids[-len(table) :], table)
        return
    num_words = decoder.num_embeddings
    add_rows(decoder, range(num_words, len(table)))
    own = decoder.embedding.weight
    if table.shape[1:] != own.shape[1:] or len(table) <= max(ids, default=len(own) - 1):
        raise InputError(
            f"{where}: word embeddings: expected shape {tuple(own.shape)}, or rows of the image marks in the "
            f"tokenizer of the base ({len(ids)}), found shape {tuple(table.shape)}"
        )
    own.data[: len(table)] = table.to(own.dtype)


def _restore_newline(weights: Mapping[str, Tensor], width: int, path: Path, dtype: torch.dtype | None) -> nn.Parameter:
    newline = find_newline(weights)
    if newline is None or newline.shape != (width,):
        found = "none" if newline is None else f"shape {tuple(newline.shape)}"
        raise InputError(f"{path}: tensor {NEWLINE_NAME!r}: expected shape {(width,)}, found {found}")
    return nn.Parameter(newline.to(dtype or newline.dtype))
