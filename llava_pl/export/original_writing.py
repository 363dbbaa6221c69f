"""A model to a folder that the original's code reads: the whole of it, or what stage 1 has learned.

In: a `Pretrained`. Out: a folder in the original's layout; the way back is ``export/original_folder.py``.
"""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from llava_pl.export.assemble import ModelSpec, describe, tensors_of
from llava_pl.export.manifest import write_manifest
from llava_pl.export.original import (
    PROJECTOR_FILE,
    TOWER_FOLDER,
    find_unknown,
    original_config,
    original_weights,
)
from llava_pl.export.pretrained import OTHERS, Pretrained
from llava_pl.export.tokenizer_files import write_tokenizer
from llava_pl.export.weights import MAX_SHARD_BYTES, check_weights, write_weights
from llava_pl.models.decoder import CausalDecoder
from llava_pl.types import IMAGE_PATCH, InputError


def write_original(pretrained: Pretrained, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES, home: Path) -> None:
    """Write a model so that the original's code loads it.

    Args:
        pretrained: What to write.
        folder: Where to write it, an empty folder.
        max_shard_bytes: A file is split above this size.
        home: The place that the folder will have in the end: the original finds the encoder by an absolute path.

    Raises:
        InputError: The original's code has no such encoder, projector or decoder.
    """
    weights = tensors_of(pretrained.model)
    spec = describe(pretrained.model, pretrained.projector, pretrained.projector_options)
    if (unknown := find_unknown(spec, pretrained.settings)) is not None:
        raise InputError(f"format llava: the original's code knows no {unknown}; {OTHERS}")
    vision = {**spec.vision_encoder, "architectures": ["CLIPVisionModel"]}
    config = _make_config(pretrained, spec, str(home.resolve() / TOWER_FOLDER))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    own = original_weights(weights)
    write_weights(own, folder, max_shard_bytes=max_shard_bytes)
    tower = folder / TOWER_FOLDER
    tower.mkdir()
    prefix = "vision_encoder.model."
    write_weights(
        {f"vision_model.{k.removeprefix(prefix)}": w for k, w in weights.items() if k.startswith(prefix)}, tower
    )
    (tower / "config.json").write_text(json.dumps(vision, indent=1) + "\n", encoding="utf-8")
    pretrained.image_transform.processor.save_pretrained(tower)
    write_tokenizer(pretrained, folder, slow=True)
    write_manifest(pretrained, own, folder, "llava")


def write_projector(pretrained: Pretrained, folder: Path) -> None:
    """Write what stage 1 learned, as the original's stage 1 does: `mm_projector.bin` and `config.json`.

    Raises:
        InputError: More was trained than that, by this run or by one before it.
    """
    kept = bridge_weights(pretrained)
    if rest := sorted(set(pretrained.origin.trained) - kept.keys()):
        raise InputError(f"format projector: expected a model of which no more was trained, found {rest[0]}; {OTHERS}")
    check_bases(pretrained, kept, "projector")
    own = original_weights(kept)
    check_weights(own, folder)
    config = make_config(pretrained, "projector")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    torch.save({name: tensor.clone() for name, tensor in own.items()}, folder / PROJECTOR_FILE)
    write_manifest(pretrained, own, folder, "projector")


def bridge_weights(pretrained: Pretrained) -> dict[str, Tensor]:
    """Return what no base has: projector, newline, and the word embeddings if these learned or have new rows."""
    model = pretrained.model
    table = f"decoder.model.{cast('CausalDecoder', model.decoder).embedding_name}"
    has_table = bool(model.new_token_ids) or table in pretrained.origin.trained
    return {
        name: tensor
        for name, tensor in tensors_of(model).items()
        if name.startswith("projector.") or name == "image_newline" or (has_table and name == table)
    }


def check_bases(pretrained: Pretrained, kept: Container[str], form: str) -> None:
    """Check that what a folder leaves out is in the models that it names.

    Args:
        pretrained: What is written.
        kept: Names of the tensors that the folder holds.
        form: Which it has.

    Raises:
        InputError: An earlier run has replaced some of it.
    """
    if odd := [name for name in pretrained.origin.replaced if name not in kept]:
        part = odd[0].partition(".")[0]
        raise InputError(
            f"format {form}: the {part} beneath is not its base {pretrained.origin.bases[part].name}, since "
            f"model.init_from replaced {odd[0]} and {len(odd) - 1} more; make a folder of the checkpoint that the run "
            "started from (`llava-pl import`) and train upon that, or export format hf"
        )


def make_config(pretrained: Pretrained, form: str) -> dict[str, Any]:
    """Return the `config.json` of a folder that holds a part alone, and names the models that the rest comes from.

    Raises:
        InputError: These are not known.
    """
    tower = pretrained.origin.bases.get("vision_encoder")
    if tower is None or tower.select_layer is None:
        raise InputError(f"format {form}: the encoder that the model was made from is not known; {OTHERS}")
    spec = describe(pretrained.model, pretrained.projector, pretrained.projector_options)
    return {**_make_config(pretrained, spec, tower.name), "mm_vision_select_layer": tower.select_layer}


def _make_config(pretrained: Pretrained, spec: ModelSpec, tower: str) -> dict[str, Any]:
    dtype = str(pretrained.model.decoder.embedding.weight.dtype).removeprefix("torch.")
    words = {} if pretrained.tokenizer is None else pretrained.tokenizer.get_vocab()
    return original_config(spec, pretrained.settings, tower, dtype, has_patch_word=IMAGE_PATCH in words)
