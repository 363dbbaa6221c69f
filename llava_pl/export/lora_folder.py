"""The original's LoRA folders: adapters as peft writes them, what else was trained beside them, and a base elsewhere.

In: a folder and its base. Out: a `Pretrained` with the adapters merged; and the way back, so that peft and the
original's code load what was trained here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_pl.data.json_files import read_json_object
from llava_pl.export.assemble import tensors_of
from llava_pl.export.bases import check_base, describe_base
from llava_pl.export.certificate import probe
from llava_pl.export.lora import insert_adapters, merge_adapters
from llava_pl.export.manifest import check_tensors, origin_of, read_manifest, write_manifest
from llava_pl.export.original import (
    is_original,
    original_weights,
    own_weights,
    projector_weights,
    read_original_config,
)
from llava_pl.export.original_folder import BASE, build_parts, read_base, restore_embeddings
from llava_pl.export.original_writing import bridge_weights, check_bases, make_config
from llava_pl.export.parts import copy_weights
from llava_pl.export.pretrained import OTHERS, Adapters, Pretrained
from llava_pl.export.weights import check_weights, read_weights, write_weights
from llava_pl.models.adapters import plain_name
from llava_pl.models.llava import LlavaModel
from llava_pl.models.vocabulary import add_rows
from llava_pl.types import InputError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
REST_FILE = "non_lora_trainables.bin"
WRAPPED = "base_model.model."
"""What peft puts in front of names; its adapter's own name it leaves out."""


def is_lora(folder: Path) -> bool:
    """Whether a folder holds adapters of the original's; its name plays no part."""
    return (folder / ADAPTER_CONFIG).is_file() and is_original(folder)


def read_lora(
    folder: Path,
    *,
    base: str | Path | None,
    vision_encoder: str | Path | None = None,
    dtype: torch.dtype | None = None,
    traces: bool = False,
    unsafe: bool = False,
) -> Pretrained:
    """Return the model of a folder and its base, the adapters merged.

    Args:
        folder: With `adapter_config.json`, the adapters, `non_lora_trainables.bin` and `config.json`.
        base: The language model that was adapted: a plain one, or a whole model in the original's layout.
        vision_encoder: The encoder's folder or hub name; by default what `config.json` names.
        dtype: Of the weights; as on disk when None.
        traces: Keep hashes of the bases, and the answers without the adapters and before they were merged.
        unsafe: Import the class that the folder names as its projector, which runs that class's code.

    Raises:
        InputError: A part is missing, is another base than the adapters were made for, or does not fit.
    """
    if base is None:
        raise InputError(f"{folder}: holds a LoRA alone; give the language model it was trained with: {BASE}")
    manifest = read_manifest(folder)
    origin = origin_of(manifest, "lora", folder)
    check_base("decoder", origin.bases.get("decoder"), describe_base(base), folder)
    adapters, biases = _read_adapters(folder)
    rest: dict[str, Tensor] = {}
    if (folder / REST_FILE).is_file():
        rest = own_weights({_unwrap(name): tensor for name, tensor in read_weights(folder / REST_FILE).items()})
        check_weights(rest, folder / REST_FILE)
    # LLaVA: what learned beside the adapters is in its file, these in both.
    if odd := [n for n in biases.keys() & rest.keys() if not torch.equal(biases[n].to(rest[n]), rest[n])]:
        raise InputError(f"{folder}: {odd[0]!r} is another in {REST_FILE} than beside the adapters; fetch them again")
    rest |= biases
    check_tensors(manifest, {**adapters.weights, **rest}, folder)
    config, decoder = read_original_config(folder, is_part=True), read_base(base, dtype)
    pretrained = build_parts(
        folder, config, manifest, decoder, base=base, vision_encoder=vision_encoder, dtype=dtype, traces=traces,
        unsafe=unsafe,
    )  # fmt: skip
    model = pretrained.model
    if missing := [name for name in model.projector.state_dict() if f"projector.{name}" not in rest]:
        if not is_original(Path(base)):
            raise InputError(f"{folder / REST_FILE}: holds no projector tensor {missing[0]!r}, nor does the base")
        # A LoRA upon a whole LLaVA whose projector was frozen.
        own = projector_weights(read_weights(base), base)
        copy_weights(model.projector.to(dtype or next(iter(own.values())).dtype), own, where=base)
    trained, table = list(rest), rest.pop(f"decoder.model.{decoder.embedding_name}", None)
    add_rows(decoder, range(decoder.num_embeddings, 0 if table is None else len(table)))
    base_answers = probe(model) if traces else ()
    if table is not None:
        decoder.embedding.weight.data = decoder.embedding.weight.data.to(dtype or table.dtype)
        restore_embeddings(pretrained, table, folder / REST_FILE)
    _put_back(model, rest, folder, dtype)
    insert_adapters(model, adapters, folder)
    live_answers = probe(model) if traces else ()
    trained += merge_adapters(model, adapters)
    return replace(
        pretrained,
        model=model.eval().requires_grad_(False),
        origin=replace(
            pretrained.origin,
            layout="lora",
            trained=tuple(trained),
            data_hash=origin.data_hash,
            adapters=adapters,
            base_answers=base_answers,
            live_answers=live_answers,
        ),
    )


def write_lora(pretrained: Pretrained, folder: Path) -> None:
    """Write the adapters of a model, and what else was trained, without its base.

    Raises:
        InputError: It has none, or they sit where the original's code has none.
    """
    origin = pretrained.origin
    if origin.adapters is None:
        raise InputError(
            "format lora: expected a model with adapters, found none: it was trained without, or `llava-pl import` has "
            "merged them; export the checkpoint of its run, or the LoRA folder that was imported"
        )
    if odd := [name for name in origin.adapters.weights if not name.startswith("decoder.model.")]:
        raise InputError(f"format lora: expected adapters of the decoder alone, found {odd[0]!r}; {OTHERS}")
    weights = tensors_of(pretrained.model)
    layers = sorted({name.partition(".lora_")[0] for name in origin.adapters.weights})
    adapted = {f"{layer}.weight" for layer in layers}
    kept = {name: weights[name] for name in dict.fromkeys(origin.trained) if name in weights and name not in adapted}
    kept |= bridge_weights(pretrained)
    if odd := [name for name in kept if name.startswith("vision_encoder.")]:
        raise InputError(f"format lora: expected a frozen vision encoder, found {odd[0]!r} trained; {OTHERS}")
    check_bases(pretrained, kept, "lora")
    biases = {name: tensor for name, tensor in kept.items() if _is_bias(name)}
    others = {name: tensor for name, tensor in kept.items() if name not in biases}
    rest = {f"{WRAPPED}{name}": tensor.clone() for name, tensor in original_weights(others).items()}
    outside = {_wrap(name): tensor.contiguous() for name, tensor in origin.adapters.weights.items()}
    outside |= {_wrap_bias(name, layers): tensor.contiguous() for name, tensor in biases.items()}
    config, decoder = make_config(pretrained, "lora"), origin.bases.get("decoder")
    if decoder is None:
        raise InputError(f"format lora: the language model that it was made from is not known; {OTHERS}")
    layers = [layer.removeprefix("decoder.model.") for layer in layers]
    adapter_config = _peft_config(origin.adapters, layers, decoder.name)
    for name, content in (("config.json", config), (ADAPTER_CONFIG, adapter_config)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_weights(outside, folder)
    (folder / "model.safetensors").rename(folder / ADAPTER_FILES[0])
    torch.save(rest, folder / REST_FILE)
    write_manifest(pretrained, {**origin.adapters.weights, **kept}, folder, "lora")


def _peft_config(adapters: Adapters, layers: list[str], base: str) -> dict[str, Any]:
    """Return what peft reads; nothing that only its newer versions know."""
    config = adapters.config
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config["rank"],
        "lora_alpha": config["alpha"],
        "lora_dropout": config.get("dropout", 0.0),
        "bias": config.get("bias", "none"),
        "target_modules": layers,
        "inference_mode": True,
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }
    return {**plain, **{name: True for name in ("use_dora", "use_rslora") if config.get(name)}}


def _read_adapters(folder: Path) -> tuple[Adapters, dict[str, Tensor]]:
    """Return the adapters, and the biases of the decoder that learned with them."""
    path = folder / ADAPTER_CONFIG
    config = read_json_object(path)
    if config.get("peft_type") != "LORA" or type(config.get("r")) is not int:
        raise InputError(f"{path}: expected peft_type LORA with its rank r, found {config.get('peft_type')!r}")
    if type(alpha := config.get("lora_alpha", 8)) not in (int, float) or not 0 < alpha < float("inf"):
        raise InputError(f"{path}: expected a number above 0 as lora_alpha, found {alpha!r}; fetch the folder again")
    for name in ("use_dora", "use_rslora"):
        if type(config.get(name, False)) is not bool:
            raise InputError(
                f"{path}: expected true or false as {name}, found {config[name]!r}; fetch the folder again"
            )
    for name in ("alpha_pattern", "rank_pattern", "modules_to_save"):
        if config.get(name):
            raise InputError(f"{path}: expected one rank and scale for all layers, found {name} {config[name]}")
    names = [name for name in ADAPTER_FILES if (folder / name).is_file()]
    if not names:
        raise InputError(f"{folder}: expected {' or '.join(ADAPTER_FILES)} beside {ADAPTER_CONFIG}, found neither")
    found = read_weights(folder / names[0])
    check_weights(found, folder / names[0])
    bias = config.get("bias") or "none"
    plain = {f"decoder.model.{plain_name(n.removeprefix(WRAPPED))}": n for n in found if ".lora_" not in n}
    if odd := [n for own, n in plain.items() if bias == "none" or not _is_bias(own)]:
        raise InputError(
            f"{folder / names[0]}: tensor {odd[0]!r} is no LoRA's; expected adapters of linear layers alone, and "
            f"biases where {ADAPTER_CONFIG} has them"
        )
    biases = {own: found.pop(name) for own, name in plain.items()}
    known = {"rank": config["r"], "alpha": float(alpha), "bias": bias}
    kinds = {name: bool(config.get(name)) for name in ("use_dora", "use_rslora")}
    return Adapters({**known, **kinds}, {_name_adapter(name): tensor for name, tensor in found.items()}), biases


def _put_back(model: LlavaModel, rest: Mapping[str, Tensor], folder: Path, dtype: torch.dtype | None) -> None:
    """Copy what was trained beside the adapters, each tensor exactly once, in the dtype of its file."""
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in rest.items():
        if name not in own or own[name].shape != tensor.shape:
            expected = f"shape {tuple(own[name].shape)}" if name in own else "no such tensor"
            raise InputError(f"{folder / REST_FILE}: {name!r}: expected {expected}, found shape {tuple(tensor.shape)}")
        own[name].data = tensor.to(dtype or tensor.dtype)


def _unwrap(name: str) -> str:
    # LLaVA: names begin with one or two of peft's prefixes, by its version.
    while name.startswith(WRAPPED):
        name = name.removeprefix(WRAPPED)
    return name.removeprefix("model.") if name.startswith("model.model.") else name


def _name_adapter(name: str) -> str:
    """Return the name in memory of a tensor in peft's files, which leave the adapter's own name out."""
    stem, _, kind = name.removeprefix(WRAPPED).rpartition(".lora_")
    return f"decoder.model.{stem}.lora_{kind.removesuffix('.weight')}.default.weight"


def _is_bias(name: str) -> bool:
    """Whether a tensor is a bias of the decoder, which peft keeps beside its adapters."""
    return name.startswith("decoder.model.") and name.endswith(".bias")


def _wrap_bias(name: str, layers: list[str]) -> str:
    """Return the name that peft has for a bias: of an adapted layer, that of the layer beneath."""
    layer = name.removesuffix(".bias")
    return f"{WRAPPED}{layer.removeprefix('decoder.model.')}{'.base_layer' if layer in layers else ''}.bias"


def _wrap(name: str) -> str:
    stem, _, kind = name.removeprefix("decoder.model.").rpartition(".lora_")
    # DoRA's vectors are the only ones without a last word.
    end = "" if kind.startswith("magnitude_vector") else ".weight"
    return f"{WRAPPED}{stem}.lora_{kind.removesuffix('.default.weight')}{end}"
