"""Folders in the original LLaVA's layout: a whole model, or a projector beside the language model that it belongs to.

In, out: a `Pretrained` and a folder that the original's code reads. What the names and settings in it mean is in
``export/original.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.settings import DataSettings
from llava_pl.export.assemble import describe, plain_config, tensors_of
from llava_pl.export.certificate import probe
from llava_pl.export.manifest import check_tensors, origin_of, read_manifest, settings_of, write_manifest
from llava_pl.export.original import (
    EMBEDDING_NAME,
    NEWLINE_NAME,
    PROJECTOR_FILE,
    TOWER_FOLDER,
    OriginalConfig,
    encoder_weights,
    find_newline,
    is_original,
    original_config,
    original_weights,
    projector_weights,
    read_original_config,
)
from llava_pl.export.parts import build_original_decoder, copy_weights, load_decoder, load_vision_encoder
from llava_pl.export.pretrained import BaseModel, Pretrained
from llava_pl.export.tokenizer_files import find_tokenizer, read_sentencepiece, write_tokenizer
from llava_pl.export.weights import (
    MAX_SHARD_BYTES,
    check_weights,
    has_weights,
    hash_weights,
    read_weights,
    write_weights,
)
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.projector import build_projector
from llava_pl.types import InputError

AS_ON_DISK: Any = "auto"
"""What transformers understands as the dtype that a model's own files have."""


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
    # Released folders hold the projector's file beside the whole model; it is a stage-1 folder only without the latter.
    is_projector_only = not has_weights(folder) and (folder / PROJECTOR_FILE).is_file()
    if is_projector_only and base is None:
        raise InputError(f"{folder}: holds a projector alone; give the language model it was trained with as base=")
    if base is not None and not is_projector_only:
        raise InputError(f"{folder}: holds a whole model; base= is for folders with {PROJECTOR_FILE} alone")
    origin = origin_of(manifest, "projector" if is_projector_only else "llava", folder)
    if base is not None:
        check_base(folder, origin.bases.get("decoder"), base)
    tower = vision_encoder or find_tower(folder, config.vision_encoder)
    encoder = load_vision_encoder(
        tower, select_layer=config.select_layer, select_feature=config.select_feature, dtype=dtype or AS_ON_DISK
    )
    transform = ImageTransform.from_pretrained(tower, aspect="pad" if config.aspect == "pad" else "square")
    # Once for both parts: at 7B the files are 14 GB.
    weights_path = folder / PROJECTOR_FILE if is_projector_only else folder
    weights = read_weights(weights_path)
    check_weights(weights, weights_path)
    check_tensors(manifest, weights, folder)
    if config.has_own_encoder and not is_projector_only:
        # Layers above the selected one are in the file, but not in the encoder.
        own = encoder.model.state_dict()
        found = {name: tensor for name, tensor in encoder_weights(weights).items() if name in own}
        copy_weights(encoder.model, found, where=weights_path)
    decoder = _read_decoder(folder, weights, dtype) if base is None else read_base(base, dtype)
    projector = build_projector(config.projector, vision_width=encoder.width, decoder_width=decoder.width)
    model = LlavaModel(encoder, projector, decoder).eval()
    base_answers = probe(model) if traces and is_projector_only else ()
    if is_projector_only or config.projector != "identity":
        found = projector_weights(weights, weights_path)
        copy_weights(projector.to(dtype or next(iter(found.values())).dtype), found, where=weights_path)
    if is_projector_only:
        _restore_embeddings(decoder, weights, weights_path)
        origin = replace(origin, trained=tuple(_trained_names(projector, weights)))
    if config.aspect == "anyres":
        model.image_newline = _restore_newline(weights, decoder.width, weights_path, dtype)
    if traces:
        origin = replace(origin, bases={**_bases(tower, config, base), **origin.bases})
    tiling = Tiling(transform.image_size, encoder.num_image_tokens, config.pinpoints) if config.pinpoints else None
    return Pretrained(
        model=model.requires_grad_(False),
        tokenizer=find_tokenizer(folder, base),
        image_transform=transform,
        settings=settings_of(manifest, folder) or _settings(config, is_projector_only=is_projector_only),
        projector=config.projector,
        tiling=tiling,
        origin=replace(origin, base_answers=base_answers, sentencepiece=read_sentencepiece(folder, base)),
    )


def write_original(pretrained: Pretrained, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES, home: Path) -> None:
    """Write a model so that the original's code loads it.

    Args:
        pretrained: What to write.
        folder: Where to write it, an empty folder.
        max_shard_bytes: A file is split above this size.
        home: The place that the folder will have in the end: the original finds the encoder by an absolute path.
    """
    weights = tensors_of(pretrained.model)
    spec = describe(pretrained.model, pretrained.projector, pretrained.projector_options)
    dtype = str(pretrained.model.decoder.embedding.weight.dtype).removeprefix("torch.")
    config = original_config(spec, pretrained.settings, str(home.resolve() / TOWER_FOLDER), dtype)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    own = original_weights(weights)
    write_weights(own, folder, max_shard_bytes=max_shard_bytes)
    tower = folder / TOWER_FOLDER
    tower.mkdir()
    prefix = "vision_encoder.model."
    write_weights(
        {f"vision_model.{k.removeprefix(prefix)}": w for k, w in weights.items() if k.startswith(prefix)}, tower
    )
    vision = {**plain_config(pretrained.model.vision_encoder.model.config), "architectures": ["CLIPVisionModel"]}
    if vision["model_type"] != "clip_vision_model":
        raise InputError(
            f"format llava: expected a vision encoder of CLIP, found {vision['model_type']}; use format hf"
        )
    (tower / "config.json").write_text(json.dumps(vision, indent=1) + "\n", encoding="utf-8")
    pretrained.image_transform.processor.save_pretrained(tower)
    write_tokenizer(pretrained, folder, slow=True)
    write_manifest(pretrained, own, folder, "llava")


def write_projector(pretrained: Pretrained, folder: Path) -> None:
    """Write what stage 1 learned, as the original's stage 1 does: `mm_projector.bin` and `config.json`.

    Raises:
        InputError: More was trained than that.
    """
    weights = tensors_of(pretrained.model)
    embedding = "decoder.model." + EMBEDDING_NAME
    kept = {name: weights[name] for name in weights if name.startswith("projector.") or name == "image_newline"}
    if embedding in pretrained.origin.trained:
        kept[embedding] = weights[embedding]
    if rest := sorted(set(pretrained.origin.trained) - kept.keys()):
        raise InputError(f"format projector: expected a model of which no more was trained, found {rest[0]}; use llava")
    tower = pretrained.origin.bases.get("vision_encoder")
    if tower is None:
        raise InputError("format projector: the encoder that the model was made from is not known; use format llava")
    own = original_weights(kept)
    check_weights(own, folder)
    spec = describe(pretrained.model, pretrained.projector, pretrained.projector_options)
    dtype = str(pretrained.model.decoder.embedding.weight.dtype).removeprefix("torch.")
    config = original_config(spec, pretrained.settings, tower.name, dtype)
    config["mm_vision_select_layer"] = tower.select_layer
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    torch.save({name: tensor.clone() for name, tensor in own.items()}, folder / PROJECTOR_FILE)
    write_manifest(pretrained, own, folder, "projector")


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


def _bases(tower: str | Path, config: OriginalConfig, base: str | Path | None) -> dict[str, BaseModel]:
    bases = {} if base is None else {"decoder": BaseModel(name_of(base), hash_weights(base))}
    # The encoder inside an exported folder is cut; what it was cut from, its manifest tells.
    if Path(tower).name != TOWER_FOLDER:
        bases["vision_encoder"] = BaseModel(name_of(tower), hash_weights(tower), config.select_layer)
    return bases


def _settings(config: OriginalConfig, *, is_projector_only: bool) -> DataSettings:
    return DataSettings(
        template="plain" if is_projector_only else "vicuna_v1",
        image_aspect=config.aspect,
        grid_pinpoints=config.pinpoints or None,
        image_start_end=config.has_marks,
    )


def _trained_names(projector: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    names = [f"projector.{name}" for name in projector.state_dict()]
    return [*names, *(["decoder.model." + EMBEDDING_NAME] if EMBEDDING_NAME in weights else [])]


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


def _restore_newline(weights: Mapping[str, Tensor], width: int, path: Path, dtype: torch.dtype | None) -> nn.Parameter:
    newline = find_newline(weights)
    if newline is None or newline.shape != (width,):
        found = "none" if newline is None else f"shape {tuple(newline.shape)}"
        raise InputError(f"{path}: tensor {NEWLINE_NAME!r}: expected shape {(width,)}, found {found}")
    return nn.Parameter(newline.to(dtype or newline.dtype))
