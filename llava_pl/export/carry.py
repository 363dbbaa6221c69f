"""One form on disk to another: read, write beside the place, read back, compare, and only then appear there.

In: two paths. Out: a folder with its certificate, or nothing at all and one line that says why.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoProcessor

from llava_pl.data.json_files import read_json_object
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.export.artifact import write_artifact
from llava_pl.export.asking import (
    Asking,
    Likeness,
    check_alike,
    compare_asking,
    compare_ids,
    encode_texts,
    read_asking,
)
from llava_pl.export.card import make_card
from llava_pl.export.certificate import Comparison, check_differs, check_same, coarsest_dtype, compare, probe
from llava_pl.export.hf import OUTSIDE_NAMES, probe_stock, write_hf
from llava_pl.export.hf_processor import find_difference
from llava_pl.export.layouts import load_pretrained, needs_base
from llava_pl.export.lora_folder import write_lora
from llava_pl.export.manifest import MANIFEST_FILE, versions
from llava_pl.export.original import ORIGINAL_NAMES, is_original
from llava_pl.export.original_writing import write_original, write_projector
from llava_pl.export.pretrained import Layout, Pretrained
from llava_pl.export.quiet import silenced
from llava_pl.export.weights import MAX_SHARD_BYTES, hash_file
from llava_pl.types import IMAGE_PATCH, InputError

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
            f"{target}: the model was trained by LoRA, which format {layout} has no place for; add --merge_lora to "
            "make it part of the weights, or write it alone with --format lora"
        )
    live = pretrained.origin.live_answers or probe(pretrained.model)
    coarsest = coarsest_dtype(pretrained.model)  # the live answers come of its arithmetic
    if dtype is not None:
        coarsest = max(coarsest, dtype, key=lambda dtype: torch.finfo(dtype).eps)
        pretrained.model.to(dtype)
    # Beside the target, so that renaming is one step.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    new_parents = [place for place in target.absolute().parents if not place.exists()]
    try:
        temporary.mkdir(parents=True)
        say(f"writing {target} ({layout})")
        _write(pretrained, temporary, layout, home=target, max_shard_bytes=max_shard_bytes)
        say("reading it back")
        found, alike = _ask_again(pretrained, temporary, layout)
        same = compare(found, live)
        check_same(same, coarsest, str(target))
        check_alike(alike, str(target))
        origin = pretrained.origin
        base = check_differs(found, origin.base_answers, live, origin.trained, str(target))
        content = {
            "layout": layout,
            "read_back_by": "transformers" if layout == "hf" else "llava_pl",
            "against_live_model": [asdict(row) for row in same],
            "against_base": [asdict(row) for row in base],
            "asked_alike": [asdict(row) for row in alike],
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
        with suppress(OSError):  # with the target in it, or a file of another process, a folder stays
            for place in new_parents:
                place.rmdir()
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
        InputError: As `load_pretrained`, or the source has another tokenizer, or too few rows for that which is given.
    """
    pretrained = load_pretrained(
        source, base=base, vision_encoder=vision_encoder, dtype=None, traces=True, unsafe=unsafe
    )
    if tokenizer is not None:
        pretrained = _add_tokenizer(pretrained, source, tokenizer)
    return pretrained


def certify(
    a: Path, b: Path, *, base: str | None = None, vision_encoder: str | None = None, unsafe: bool = False
) -> tuple[list[Comparison | Likeness], bool]:
    """Return how two forms of a model differ, and whether they are one: alike asked, with like answers.

    Args:
        a: Any form.
        b: Any form.
        base: The language model of those that are a projector or a LoRA alone.
        vision_encoder: The encoder of those that name one which is elsewhere.
        unsafe: Read checkpoints that hold pickled objects.

    Returns:
        Findings, each of which is a line as a string: a `Comparison` of the answers to each question, which may differ
        by the rounding of the coarsest dtype of weights; then a `Likeness` of tokenizer, template and pictures, which
        may not differ, but may be missing in one form. And whether all of it holds.

    Raises:
        InputError: As `load_pretrained`, or the models do not take the same questions.
    """

    def ask(path: Path, num_words: int | None) -> tuple[Sequence[Tensor], torch.dtype, Asking]:
        pretrained = _open_for(path, base, vision_encoder, unsafe=unsafe)
        model = pretrained.model
        num_words = min(num_words or model.decoder.num_embeddings, model.decoder.num_embeddings)
        is_told = path.is_file() or (path / MANIFEST_FILE).is_file()
        return probe(model, num_words), coarsest_dtype(model), read_asking(pretrained, str(path), is_told=is_told)

    first = ask(a, None)  # one after the other: at 7B a model is 14 GB
    second = ask(b, len(first[0][-1]))
    if len(second[0][-1]) < len(first[0][-1]):  # the questions hold words that b does not know
        first = ask(a, len(second[0][-1]))
    (answers, dtype, asking), (other_answers, other_dtype, other_asking) = first, second
    rows = compare(answers, other_answers)
    alike = compare_asking(asking, other_asking)
    coarsest = max(dtype, other_dtype, key=lambda dtype: torch.finfo(dtype).eps)
    is_same = all(row.is_within(coarsest) for row in rows) and all(row.is_same is not False for row in alike)
    return [*rows, *alike], is_same


def check_target(target: Path) -> None:
    """Check that a folder can be made.

    Raises:
        InputError: Something is there already, or the folder that it would be in is none, or takes nothing.
    """
    if target.exists() or target.is_symlink():
        raise InputError(f"{target}: exists already; choose another place, or remove it first")
    place = next(place for place in target.absolute().parents if os.path.lexists(place))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        found = "a folder that cannot be written to" if place.is_dir() else "no folder"
        raise InputError(f"{target}: cannot be written: {place} is {found}; choose another place")


def _add_tokenizer(pretrained: Pretrained, source: Path, place: str) -> Pretrained:
    """Give a model without a tokenizer one, with the marks that the model has rows for."""
    settings, num_rows, own = pretrained.settings, pretrained.model.decoder.num_embeddings, pretrained.tokenizer
    words = load_tokenizer(place, legacy=settings.legacy_tokenizer)
    if own is not None:
        has_patch_word = IMAGE_PATCH in own.get_vocab()
    else:
        config = read_json_object(source / "config.json") if is_original(source) else {}
        # LLaVA: the table grows by as many rows as there are new words.
        num_new = num_rows - 1 - max(words.get_vocab().values())
        has_patch_word = bool(config.get("mm_use_im_patch_token")) or num_new == 1 + 2 * settings.image_start_end
    add_image_tokens(words, image_patch_token=has_patch_word, image_start_end=settings.image_start_end)
    vocabulary = words.get_vocab()
    if own is not None:
        if own.get_vocab() != vocabulary or encode_texts(own) != encode_texts(words):
            raise InputError(f"{source}: has its tokenizer already, and {place} is another; leave --tokenizer out")
        return pretrained
    if max(vocabulary.values()) >= num_rows:
        raise InputError(
            f"{source}: expected a tokenizer of at most {num_rows} words, for which the model has rows, found "
            f"{max(vocabulary.values()) + 1} with those for pictures at {place}; give that of its base"
        )
    return replace(pretrained, tokenizer=words)


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


def _ask_again(pretrained: Pretrained, folder: Path, layout: Layout) -> tuple[Sequence[Tensor], list[Likeness]]:
    """Return what the written model answers, read by those who will read it, and whether it is asked alike."""
    if layout == "hf":
        with silenced():
            processor: Any = AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
        if difference := find_difference(pretrained, processor):
            raise InputError(f"{folder}: AutoProcessor does not ask as training did: {difference}")
        return probe_stock(folder, pretrained.model.decoder.num_embeddings), _compare_processor(pretrained, processor)
    options: dict[str, Any] = {"dtype": None}
    if layout in ("projector", "lora"):
        bases = pretrained.origin.bases
        decoder, encoder = (bases[part].path if part in bases else None for part in ("decoder", "vision_encoder"))
        if decoder is None or encoder is None:
            raise InputError(f"{folder}: format {layout} needs the models that it belongs to; export from a checkpoint")
        # The bases have another dtype on disk, maybe, than in the run.
        is_exact = any(parameter.dtype == torch.float32 for parameter in pretrained.model.parameters())
        dtype = torch.float32 if is_exact else coarsest_dtype(pretrained.model)
        options = {"base": decoder, "vision_encoder": encoder, "dtype": dtype}
    again = load_pretrained(folder, **options)
    asking = [read_asking(form, name, is_told=True) for form, name in ((again, "this"), (pretrained, "the live model"))]
    return probe(again.model), compare_asking(*asking)


def _compare_processor(pretrained: Pretrained, processor: Any) -> list[Likeness]:  # noqa: ANN401  LlavaProcessor has no types
    """Return how a processor asks that gives the samples of training."""
    tokenizer: Any = pretrained.tokenizer  # without one there is no processor
    return [
        compare_ids(encode_texts(processor.tokenizer, adds_marks=False), encode_texts(tokenizer, adds_marks=False)),
        Likeness("template", True, "AutoProcessor gives the ids of training"),
        Likeness("pictures", True, "AutoProcessor gives the pixel values of training"),
    ]


_KEY_MAPS: Mapping[str, Sequence[tuple[str, str]]] = {
    "hf": OUTSIDE_NAMES,
    "llava": ORIGINAL_NAMES,
    "projector": ORIGINAL_NAMES,
}
