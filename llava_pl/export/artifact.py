"""This project's own folder: a whole model, merged and self-contained, under the names that it has in memory.

In, out: a `Pretrained` and a folder of `config.json`, `model.safetensors`, tokenizer and picture settings and
`manifest.json`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.json_files import read_json, read_json_object
from llava_pl.data.settings import DataSettings
from llava_pl.export.assemble import ModelSpec, assemble, describe, tensors_of
from llava_pl.export.manifest import (
    LAYOUT_VERSION,
    MANIFEST_FILE,
    check_tensors,
    check_trained,
    check_vocabulary,
    origin_of,
    read_manifest,
    settings_of,
    write_manifest,
)
from llava_pl.export.pretrained import Pretrained
from llava_pl.export.tokenizer_files import find_tokenizer, read_sentencepiece, write_tokenizer
from llava_pl.export.weights import MAX_SHARD_BYTES, check_weights, read_weights, write_weights
from llava_pl.models.projector import CONNECTORS, ORIGINAL_KINDS
from llava_pl.types import InputError

MODEL_TYPE = "llava_pl"


def is_artifact(folder: Path) -> bool:
    """Whether a folder is one of this project; its name plays no part."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def read_spec(folder: Path) -> tuple[ModelSpec, DataSettings]:
    """Return what a folder's `config.json` says of the model and of its data.

    Raises:
        InputError: It is of a later layout, or does not say all that is needed.
    """
    path = folder / "config.json"
    config = read_json_object(path)
    if config.get("layout_version") != LAYOUT_VERSION:
        found = config.get("layout_version")
        raise InputError(f"{path}: expected layout_version {LAYOUT_VERSION}, found {found!r}; update llava_pl")
    try:
        spec = ModelSpec(**config["model"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a field 'model' with the settings of every part ({error})") from error
    return spec, DataSettings.from_plain(config.get("data"), f"{path}: data")


def read_part(folder: Path, prefix: str, *, is_checked: bool = True) -> dict[str, Tensor]:
    """Return the tensors of one part, named as in the part itself.

    Args:
        folder: Of a whole model.
        prefix: How its names begin, such as ``decoder.model.``.
        is_checked: Look at every number now; whoever streams the tensors does so later.

    Raises:
        InputError: A file is missing, broken or not the one that was written.
    """
    read_manifest(folder)
    weights = read_weights(folder, prefix=prefix)
    if is_checked:
        check_weights(weights, folder)
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def read_projector(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the projector, and the newline embedding if there is one, by their names in the model.

    Raises:
        InputError: As `read_part`.
    """
    projector = {f"projector.{name}": tensor for name, tensor in read_part(folder, "projector.").items()}
    return projector | read_weights(folder, prefix="image_newline")


def read_artifact(folder: Path, *, dtype: torch.dtype | None = None, unsafe: bool = False) -> Pretrained:
    """Return the model of a folder.

    Args:
        folder: Of any name.
        dtype: Of the weights; as on disk when None.
        unsafe: Import the class that it names as its projector, which runs that class's code.

    Raises:
        InputError: A file is missing, broken or not the one that was written, or tensors do not fit.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: expected manifest.json beside config.json, found none; fetch the folder again")
    spec, settings = read_spec(folder)
    said = asdict(settings_of(manifest, folder) or settings)
    for name, value in asdict(settings).items():
        if said[name] != value:
            raise InputError(
                f"{folder / MANIFEST_FILE}: field 'data.{name}': expected {value!r} as in config.json, found "
                f"{said[name]!r}; fetch the folder again, or, if an edit was meant, make it in both"
            )
    check_projector(spec.projector, folder, unsafe=unsafe)
    weights = read_weights(folder)
    check_tensors(manifest, weights, folder)
    model = assemble(spec, weights, folder, dtype=dtype)
    check_vocabulary(manifest, folder, least=model.decoder.num_embeddings, most=model.decoder.num_embeddings)
    transform = ImageTransform.from_pretrained(folder, aspect="pad" if settings.image_aspect == "pad" else "square")
    pinpoints = settings.grid_pinpoints
    origin = origin_of(manifest, "artifact", folder)
    check_trained(origin, model.state_dict().keys(), folder)
    return Pretrained(
        model=model,
        tokenizer=find_tokenizer(folder),
        image_transform=transform,
        settings=settings,
        projector=spec.projector,
        projector_options=spec.projector_options,
        tiling=None if pinpoints is None else Tiling(transform.image_size, model.num_image_tokens, pinpoints),
        origin=replace(origin, sentencepiece=read_sentencepiece(folder)),
    )


def write_artifact(pretrained: Pretrained, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write a model and all that belongs to it into an empty folder."""
    weights = tensors_of(pretrained.model)
    write_weights(weights, folder, max_shard_bytes=max_shard_bytes)
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "layout_version": LAYOUT_VERSION,
        "model": asdict(describe(pretrained.model, pretrained.projector, pretrained.projector_options)),
        "data": pretrained.settings.to_plain(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    pretrained.image_transform.processor.save_pretrained(folder)
    write_tokenizer(pretrained, folder)
    write_manifest(pretrained, weights, folder, "artifact")


def check_projector(kind: str, folder: Path, *, unsafe: bool) -> None:
    """Check that a folder's projector is no class from outside that nobody but the file asks for.

    Args:
        kind: What the folder names.
        folder: What an error begins with.
        unsafe: Any class will do. One that the user has imported does in any case.

    Raises:
        InputError: It is.
    """
    is_ours = ORIGINAL_KINDS.fullmatch(kind) is not None or kind in CONNECTORS
    if not is_ours and not unsafe and kind.rpartition(".")[0] not in sys.modules:
        raise InputError(
            f"{folder}: its projector is the class {kind}, whose code would run; import it first if you trust it "
            "(on the command line: --unsafe)"
        )
