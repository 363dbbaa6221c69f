"""A training checkpoint of this project to the model that was trained: bases from disk, trained weights from the file.

In: a `.ckpt` file or folder, whose `hyper_parameters` say how the model was built and whose `carried` entry what its
data was like. Out: a `Pretrained` whose adapters, if it has any, are part of its weights; a quantized decoder is read
as it was before, because weights that are merged into 4 bits answer otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.settings import DataSettings
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.export.artifact import check_projector
from llava_pl.export.bases import OPTIONS, check_base, describe_base, name_of, read_bases
from llava_pl.export.build import build_model
from llava_pl.export.certificate import probe
from llava_pl.export.checkpoint_file import read_checkpoint_file
from llava_pl.export.initial_weights import copy_initial_weights, load_initial_weights, places
from llava_pl.export.lora import insert_adapters, merge_adapters
from llava_pl.export.model_config import ModelConfig
from llava_pl.export.pretrained import Adapters, BaseModel, Origin, Pretrained
from llava_pl.export.tokenizer_files import find_tokenizer, read_sentencepiece
from llava_pl.export.weights import check_weights
from llava_pl.models.adapters import LEARNED_ROWS, LoraConfig, is_adapter, plain_name, plain_table
from llava_pl.models.llava import LlavaModel
from llava_pl.models.vocabulary import NEW_ROWS, row_tables
from llava_pl.types import InputError


def read_checkpoint(
    path: Path,
    *,
    base: str | Path | None = None,
    vision_encoder: str | Path | None = None,
    dtype: torch.dtype | None = None,
    traces: bool = False,
    unsafe: bool = False,
) -> Pretrained:
    """Return the model that a checkpoint was saved of.

    Args:
        path: The file, or the folder with those of several ranks.
        base: Where its language model is now; by default where the run found it.
        vision_encoder: Where its encoder is now.
        dtype: Of the weights; that of the run when None: trained ones float32, frozen ones as `frozen_dtype` says.
        traces: Keep hashes of the bases, and the answers that the model gave before this run and with its adapters.
        unsafe: Read a file that holds pickled objects, which can run any code.

    Raises:
        InputError: The file is no checkpoint of this project, holds pickled objects, or does not fit its bases.
    """
    try:
        content = read_checkpoint_file(path, unsafe=unsafe)
    except InputError as error:
        hint = "; if you trust it, --unsafe reads it, and runs what code it holds" if ": refused" in str(error) else ""
        raise InputError(f"{error}{hint}") from error
    if "hyper_parameters" not in content:
        raise InputError(f"{path}: expected a checkpoint of llava-pl fit, with hyper_parameters, found none")
    hyper, carried = content["hyper_parameters"], content.get("carried", {})
    if "data" not in carried:
        raise InputError(f"{path}: holds no settings of its data; it is of an older version: resume it for a step")
    settings = DataSettings.from_plain(carried.get("data"), f"{path}: carried.data")
    weights = {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}
    check_weights(weights, path)
    expected = read_bases(carried, path)
    moved = {"vision_encoder": vision_encoder, "decoder": base}
    check_projector(str(hyper.get("projector", "")), path, unsafe=unsafe)
    model, bases = _build(hyper, path, expected, moved, traces=traces)
    replaced: set[str] = set()
    if expected is None and hyper.get("init_from") is not None:  # an older one, which held trained weights alone
        replaced = load_initial_weights(model, hyper["init_from"], keeps_adapters=False)
    plain = {name: tensor for name, tensor in weights.items() if not is_adapter(name)}
    learned = {name: plain.pop(name) for name in carried.get("learned", [*plain]) if name in plain}
    _copy(model, plain, path)
    replaced = (replaced | plain.keys()) - learned.keys()
    base_answers = probe(model) if traces else ()
    trained = _copy(model, learned, path)
    adapters = _find_adapters(hyper, weights, path)
    live_answers: tuple[Tensor, ...] = ()
    if adapters is not None:
        insert_adapters(model, adapters, path)
        live_answers = probe(model) if traces else ()
        trained += merge_adapters(model, adapters)
    encoder, decoder = str(bases["vision_encoder"].path), str(bases["decoder"].path)
    transform = ImageTransform.from_pretrained(encoder, aspect="pad" if settings.image_aspect == "pad" else "square")
    tokenizer = find_tokenizer(decoder)
    if tokenizer is not None:
        tokenizer = load_tokenizer(decoder, legacy=settings.legacy_tokenizer)
        marks = {"image_patch_token": hyper["has_patch_token"], "image_start_end": hyper["has_image_marks"]}
        add_image_tokens(tokenizer, **marks)
    pinpoints = settings.grid_pinpoints
    return Pretrained(
        model=(model if dtype is None else model.to(dtype)).eval().requires_grad_(False),
        tokenizer=tokenizer,
        image_transform=transform,
        settings=settings,
        projector=hyper["projector"],
        projector_options=hyper["projector_options"] or {},
        tiling=None if pinpoints is None else Tiling(transform.image_size, model.num_image_tokens, pinpoints),
        origin=Origin(
            layout="checkpoint",
            bases=bases,
            trained=tuple(trained),
            replaced=_find_parts(replaced),
            data_hash=carried.get("data_hash"),
            base_answers=base_answers,
            live_answers=live_answers,
            adapters=adapters,
            sentencepiece=read_sentencepiece(decoder),
        ),
    )


def _build(
    hyper: Mapping[str, Any],
    path: Path,
    expected: Mapping[str, BaseModel] | None,
    moved: Mapping[str, str | Path | None],
    *,
    traces: bool,
) -> tuple[LlavaModel, dict[str, BaseModel]]:
    """Return the model as it was before any training of ours, and what it was built of."""
    try:
        config = ModelConfig.of(hyper)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: its hyper_parameters are of another version ({error}); update llava_pl") from error
    # A checkpoint of a run with kernels for GPUs is read on any machine.
    decoder = replace(
        config.decoder,
        quantization="none",
        double_quantization=False,
        gradient_checkpointing="none",
        compile_layers=False,
        fused_kernels="none",
        float8="none",
    )
    config = replace(config, decoder=decoder)
    bases = {}
    for part, place in config.base_paths.items():
        place = str(moved[part] or place)
        config = replace(config, **{part: replace(getattr(config, part), path=place)})
        bases[part] = BaseModel(name_of(place), path=place)
        if traces or expected is not None:
            bases[part] = describe_base(place)
            check_base(part, (expected or {}).get(part), bases[part], path)
    bases["vision_encoder"] = replace(bases["vision_encoder"], select_layer=config.vision_encoder.select_layer)
    try:
        model = build_model(config)
    except InputError as error:
        gone = [
            f"{OPTIONS[part]} for its {part}" for part, place in config.base_paths.items() if not Path(place).exists()
        ]
        if not gone:
            raise
        raise InputError(f"{path}: {error}; if it has moved, give {' and '.join(gone)}") from error
    return model.eval(), bases


def _copy(model: LlavaModel, weights: Mapping[str, Tensor], path: Path) -> list[str]:
    """Copy tensors into the model, in the dtype that they learned in, and return the names of what is then another."""
    own, tables, ids = places(model), row_tables(model), list(model.new_token_ids)
    for name, tensor in weights.items():
        if (place := own.get(plain_name(name))) is not None and tensor.is_floating_point():
            place.data = place.data.to(tensor.dtype)
    before = {name: plain_table(layer).weight[ids] for name, layer in tables.items()}
    copied = copy_initial_weights(model, weights, where=str(path))
    changed = [n for n, layer in tables.items() if not torch.equal(plain_table(layer).weight[ids], before[n])]
    return sorted(copied | {name.removesuffix(NEW_ROWS) for name in changed})


def _find_parts(names: set[str]) -> tuple[str, ...]:
    """Return those of encoder and decoder, without rows of new tokens, which belong to no base."""
    names = {plain_name(name) for name in names if not name.endswith((NEW_ROWS, LEARNED_ROWS))}
    return tuple(name for name in sorted(names) if name.startswith(("vision_encoder.", "decoder.")))


def _find_adapters(hyper: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> Adapters | None:
    own = {name: tensor for name, tensor in weights.items() if is_adapter(name)}
    if not own:
        return None
    known = {field.name for field in fields(LoraConfig)}
    config = hyper.get("lora") or {}
    if not config.keys() <= known:
        raise InputError(f"{path}: hyper_parameters.lora is of another version: {sorted(config.keys() - known)}")
    try:
        LoraConfig(**config)
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: hyper_parameters.lora: {error}") from error
    return Adapters(config, own)
