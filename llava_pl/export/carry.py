"""One form on disk to another: read, write beside the place, read back, compare, and only then appear there.

In: two paths. Out: a folder with its certificate, or nothing at all and one line that says why.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoProcessor

from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.export.artifact import write_artifact
from llava_pl.export.card import make_card
from llava_pl.export.certificate import Comparison, check_differs, check_same, coarsest_dtype, compare, probe
from llava_pl.export.hf import OUTSIDE_NAMES, probe_stock, write_hf
from llava_pl.export.hf_processor import find_difference
from llava_pl.export.layouts import load_pretrained, needs_base
from llava_pl.export.lora_folder import write_lora
from llava_pl.export.manifest import MANIFEST_FILE, versions
from llava_pl.export.original import ORIGINAL_NAMES
from llava_pl.export.original_writing import write_original, write_projector
from llava_pl.export.pretrained import Layout, Pretrained
from llava_pl.export.quiet import silenced
from llava_pl.export.weights import MAX_SHARD_BYTES, hash_file
from llava_pl.types import InputError

CERTIFICATE_FILE = "certificate.json"

Say = Callable[[str], None]


def _say_nothing(line: str) -> None:
    """Keep a step to itself."""


def carry(
    pretrained: Pretrained,
    target: Path,
    layout: Layout,
    *,
    dtype: torch.dtype | None = None,
    merge_lora: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    say: Say = _say_nothing,
) -> list[Comparison]:
    """Write a model in some form, and return how what was written compares with it.

    Args:
        pretrained: What to write; its weights become ``dtype``.
        target: The folder to make; it must not exist.
        layout: The form.
        dtype: Of the weights that are written; as they are when None.
        merge_lora: A LoRA may become part of the weights.
        max_shard_bytes: A file of weights is split above this size.
        say: Takes a line for each step.

    Raises:
        InputError: The target exists, the form has no place for a part, or what was written is not what was to be
            carried. Then nothing is left behind.
    """
    check_target(target)
    if pretrained.origin.adapters is not None and layout in ("hf", "llava") and not merge_lora:
        raise InputError(
            f"{target}: the model was trained by LoRA, which format {layout} has no place for; add --merge-lora to "
            "make it part of the weights, or write it alone with --format lora"
        )
    live = pretrained.origin.live_answers or probe(pretrained.model)
    if dtype is not None:
        pretrained.model.to(dtype)
    # Beside the target, so that renaming is one step.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        say(f"writing {target} ({layout})")
        _write(pretrained, temporary, layout, home=target, max_shard_bytes=max_shard_bytes)
        say("reading it back")
        found = _ask_again(pretrained, temporary, layout)
        same = compare(found, live)
        check_same(same, coarsest_dtype(pretrained.model), str(target))
        origin = pretrained.origin
        base = check_differs(found, origin.base_answers, live, origin.trained, str(target))
        content = {
            "layout": layout,
            "read_back_by": "transformers" if layout == "hf" else "llava_pl",
            "against_live_model": [asdict(row) for row in same],
            "against_base": [asdict(row) for row in base],
            "key_map": [list(pair) for pair in _KEY_MAPS.get(layout, ())],
            "sha256": {MANIFEST_FILE: hash_file(temporary / MANIFEST_FILE)},
            "versions": versions(),
        }
        (temporary / CERTIFICATE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(make_card(pretrained, layout, target.name, same), encoding="utf-8")
        check_target(target)  # another process may have been faster
        temporary.rename(target)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{target}: cannot be written ({error}); choose another place") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return same


def open_source(
    source: Path,
    *,
    base: str | None = None,
    vision_encoder: str | None = None,
    tokenizer: str | None = None,
    unsafe: bool = False,
) -> Pretrained:
    """Return the model at a path in the dtype that it has there, and all that a certificate wants to know of it.

    Args:
        source: Any form.
        base: The language model of a projector or a LoRA.
        vision_encoder: The encoder of a folder that names one which is elsewhere.
        tokenizer: Folder or hub name of its tokenizer, where the source has none.
        unsafe: Read a checkpoint that holds pickled objects, which can run any code.

    Raises:
        InputError: As `load_pretrained`.
    """
    pretrained = load_pretrained(
        source, base=base, vision_encoder=vision_encoder, dtype=None, traces=True, unsafe=unsafe
    )
    if tokenizer is not None:
        words = load_tokenizer(tokenizer, legacy=pretrained.settings.legacy_tokenizer)
        add_image_tokens(words, image_start_end=pretrained.settings.image_start_end)
        pretrained = replace(pretrained, tokenizer=words)
    return pretrained


def certify(
    a: Path, b: Path, *, base: str | None = None, vision_encoder: str | None = None, unsafe: bool = False
) -> tuple[list[Comparison], bool]:
    """Return how the answers of two models differ, and whether they are one up to rounding.

    Args:
        a: Any form.
        b: Any form.
        base: The language model of those that are a projector or a LoRA alone.
        vision_encoder: The encoder of those that name one which is elsewhere.
        unsafe: Read checkpoints that hold pickled objects.

    Raises:
        InputError: As `load_pretrained`, or the models do not take the same questions.
    """
    answers, dtypes = [], []
    for path in (a, b):  # one after the other: at 7B a model is 14 GB
        model = _open_for(path, base, vision_encoder, unsafe=unsafe).model
        answers.append(probe(model))
        dtypes.append(coarsest_dtype(model))
    rows = compare(*answers)
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return rows, all(row.is_within(coarsest) for row in rows)


def check_target(target: Path) -> None:
    """Check that a folder can be made.

    Raises:
        InputError: Something is there already.
    """
    if target.exists() or target.is_symlink():
        raise InputError(f"{target}: exists already; choose another place, or remove it first")


def _open_for(path: Path, base: str | None, vision_encoder: str | None, *, unsafe: bool) -> Pretrained:
    """Return one of two models, of which a base may be for the other alone."""
    base = base if needs_base(path) else None
    return load_pretrained(path, base=base, vision_encoder=vision_encoder, dtype=None, unsafe=unsafe)


def _write(pretrained: Pretrained, folder: Path, layout: Layout, *, home: Path, max_shard_bytes: int) -> None:
    if layout == "artifact":
        write_artifact(pretrained, folder, max_shard_bytes=max_shard_bytes)
    elif layout == "hf":
        write_hf(pretrained, folder, max_shard_bytes=max_shard_bytes)
    elif layout == "llava":
        write_original(pretrained, folder, home=home, max_shard_bytes=max_shard_bytes)
    elif layout == "projector":
        write_projector(pretrained, folder)
    elif layout == "lora":
        write_lora(pretrained, folder)
    else:
        raise InputError(f"{home}: {layout} is a form that is read, and never written by hand")


def _ask_again(pretrained: Pretrained, folder: Path, layout: Layout) -> Sequence[Tensor]:
    """Return what the written model answers, read by those who will read it."""
    if layout == "hf":
        with silenced():
            processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
        if difference := find_difference(pretrained, processor):
            raise InputError(f"{folder}: AutoProcessor does not ask as training did: {difference}")
        return probe_stock(folder, pretrained.model.decoder.num_embeddings)
    if layout not in ("projector", "lora"):
        return probe(load_pretrained(folder, dtype=None).model)
    bases = pretrained.origin.bases
    decoder, encoder = (bases[part].path if part in bases else None for part in ("decoder", "vision_encoder"))
    if decoder is None or encoder is None:
        raise InputError(f"{folder}: format {layout} needs the models that it belongs to; export from a checkpoint")
    # The bases have another dtype on disk, maybe, than in the run.
    is_exact = any(parameter.dtype == torch.float32 for parameter in pretrained.model.parameters())
    dtype = torch.float32 if is_exact else coarsest_dtype(pretrained.model)
    return probe(load_pretrained(folder, base=decoder, vision_encoder=encoder, dtype=dtype).model)


_KEY_MAPS: Mapping[str, Sequence[tuple[str, str]]] = {
    "hf": OUTSIDE_NAMES,
    "llava": ORIGINAL_NAMES,
    "projector": ORIGINAL_NAMES,
}
