"""llava-hf folders: what stock `LlavaForConditionalGeneration` and `AutoProcessor` load, and what serves from it.

In, out: a `Pretrained` and such a folder. The names of tensors are those of llava-hf's repositories on the hub, which
every version of transformers and every server reads; those that transformers 5 writes by itself are read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_pl.data.image import ImageTransform
from llava_pl.data.json_files import read_json, read_json_object
from llava_pl.data.settings import DataSettings
from llava_pl.export.assemble import ModelSpec, assemble, describe, tensors_of
from llava_pl.export.certificate import look_up, questions
from llava_pl.export.hf_processor import (
    make_processor,
    read_processor_settings,
    without_picture_word,
    write_processor,
)
from llava_pl.export.manifest import (
    MANIFEST_FILE,
    check_tensors,
    check_trained,
    check_vocabulary,
    origin_of,
    read_manifest,
    settings_of,
    write_manifest,
)
from llava_pl.export.pretrained import OTHERS, BaseModel, Pretrained
from llava_pl.export.quiet import silenced
from llava_pl.export.tokenizer_files import find_tokenizer, read_sentencepiece
from llava_pl.export.weights import MAX_SHARD_BYTES, read_weights, write_weights
from llava_pl.models.vision_encoder import count_layers_to_run
from llava_pl.types import IMAGE_SLOT, IMAGE_TOKEN_INDEX, InputError

OUTSIDE_NAMES = (
    ("vision_encoder.model.", "vision_tower.vision_model."),
    ("projector.0.", "multi_modal_projector.linear_1."),
    ("projector.2.", "multi_modal_projector.linear_2."),
    ("decoder.model.", "language_model."),
)
"""Beginnings of names in this project, and in a llava-hf folder."""

INSIDE_NAMES = (
    (r"(model\.)?vision_tower\.(vision_model\.)?", "vision_encoder.model."),
    (r"(model\.)?multi_modal_projector\.linear_1\.", "projector.0."),
    (r"(model\.)?multi_modal_projector\.linear_2\.", "projector.2."),
    (r"model\.language_model\.", "decoder.model.model."),
    (r"language_model\.(?=model\.|lm_head\.)", "decoder.model."),
    (r"language_model\.", "decoder.model.model."),
    (r"lm_head\.", "decoder.model.lm_head."),
)
"""The way back, from transformers 4's and 5's names; the first that fits counts."""

TABLES = ("decoder.model.model.embed_tokens.weight", "decoder.model.lm_head.weight")


def is_hf(folder: Path) -> bool:
    """Whether a folder is llava-hf's; its name plays no part."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and {"vision_config", "text_config", "model_type"} <= config.keys()


def read_hf(folder: Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Return the model of a folder.

    Args:
        folder: Of any name.
        dtype: Of the weights; as on disk when None.

    Raises:
        InputError: It is of another kind, a file is broken, or tensors do not fit.
    """
    manifest, config = read_manifest(folder), read_json_object(folder / "config.json")
    outside = read_weights(folder)
    check_tensors(manifest, outside, folder)
    weights = inside_names(outside, folder)
    spec = _read_spec(config, folder / "config.json", weights)
    weights = {name: tensor for name, tensor in weights.items() if not _is_above(name, spec)}
    tokenizer, table = find_tokenizer(folder), spec.decoder["vocab_size"]
    if manifest is not None and tokenizer is not None:
        tokenizer = without_picture_word(tokenizer, adds_bos=bool(manifest.get("adds_bos")))
        tokenizer.chat_template = manifest.get("chat_template")
    check_vocabulary(manifest, folder, least=1 if tokenizer is None else len(tokenizer), most=table)
    if manifest is not None and manifest.get("vocabulary", table) < table:
        # The last rows were added for the word that stands for pictures, which is no word here.
        spec = replace(spec, decoder={**spec.decoder, "vocab_size": manifest["vocabulary"]})
        weights |= {name: weights[name][: manifest["vocabulary"]].clone() for name in TABLES if name in weights}
    pictures = read_processor_settings(folder)
    if pictures is None:
        raise InputError(f"{folder}: expected preprocessor_config.json or processor_config.json, found neither")
    aspect: Literal["pad", "square"] = "pad" if pictures.get("do_pad") else "square"
    settings = settings_of(manifest, folder) or DataSettings(image_aspect=aspect, respect_exif=False)
    if settings.image_aspect != aspect:
        raise InputError(
            f"{folder / MANIFEST_FILE}: field 'data.image_aspect': expected {aspect!r}, by do_pad of the settings of "
            f"pictures, found {settings.image_aspect!r}; fetch the folder again, or make an edit in both"
        )
    model, origin = assemble(spec, weights, folder, dtype=dtype), origin_of(manifest, "hf", folder)
    check_trained(origin, model.state_dict().keys(), folder)
    eye = BaseModel(folder.name, None, config.get("vision_feature_layer", -2))
    bases = {"vision_encoder": eye, **origin.bases}
    return Pretrained(
        model=model,
        tokenizer=tokenizer,
        image_transform=ImageTransform.from_pretrained(folder, aspect=aspect),
        settings=settings,
        projector=spec.projector,
        origin=replace(origin, bases=bases, sentencepiece=read_sentencepiece(folder)),
    )


def write_hf(pretrained: Pretrained, folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write a model and all that belongs to it into an empty folder.

    Raises:
        InputError: llava-hf's class has no place for one of its parts, or there is no tokenizer.
    """
    model, tokenizer = pretrained.model, pretrained.tokenizer
    spec = describe(model, pretrained.projector, pretrained.projector_options)
    if pretrained.projector != "mlp2x_gelu":
        raise InputError(f"format hf: expected projector mlp2x_gelu, found {pretrained.projector!r}; {OTHERS}")
    if model.image_newline is not None:
        raise InputError(f"format hf: expected pictures that are seen whole, found image_aspect anyres; {OTHERS}")
    if TABLES[0] not in model.state_dict():
        kind = spec.decoder["model_type"]
        raise InputError(f"format hf: LlavaForConditionalGeneration has no place for a decoder of {kind}; {OTHERS}")
    if tokenizer is None:
        raise InputError("format hf: the model has no tokenizer, which AutoProcessor needs; give it with --tokenizer")
    num_tokens = len(tokenizer) - (IMAGE_SLOT in tokenizer.get_vocab())
    if num_tokens > model.decoder.num_embeddings:
        raise InputError(
            f"format hf: expected a row of the tables for every word, found {num_tokens} words in the tokenizer and "
            f"{model.decoder.num_embeddings} rows; give the tokenizer of the model with --tokenizer"
        )
    processor = make_processor(pretrained, tokenizer)
    picture = processor.tokenizer.convert_tokens_to_ids(IMAGE_SLOT)
    num_words = max(model.decoder.num_embeddings, picture + 1)
    weights = {name: _with_rows(name, tensor, num_words) for name, tensor in tensors_of(model).items()}
    own = outside_names(weights | _layer_above(weights, spec))
    write_weights(own, folder, max_shard_bytes=max_shard_bytes)
    dtype = str(model.decoder.embedding.weight.dtype).removeprefix("torch.")
    config = _hf_config(spec, picture, num_words, model.num_image_tokens, dtype)
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, content in (("config.json", config), ("generation_config.json", marks)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_processor(processor, folder)
    frame = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    extra = {"adds_bos": frame[:1] == [tokenizer.bos_token_id], "chat_template": tokenizer.chat_template}
    write_manifest(pretrained, own, folder, "hf", extra)


def outside_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors under the names of llava-hf."""
    renamed = {}
    for name, tensor in weights.items():
        old, new = next(pair for pair in OUTSIDE_NAMES if name.startswith(pair[0]))
        renamed[new + name.removeprefix(old)] = tensor
    return renamed


def inside_names(weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Return llava-hf's tensors under the names of this project.

    Raises:
        InputError: A name is none of a llava-hf model, or two are one here.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = next(((m, new) for old, new in INSIDE_NAMES if (m := re.match(old, name))), None)
        if match is None:
            raise InputError(f"{where}: tensor {name!r} is none of a llava-hf model of a picture as a whole")
        own = match[1] + name[match[0].end() :]
        if own in renamed:
            raise InputError(
                f"{where}: tensor {name!r} is there twice, under the names of two versions of transformers"
            )
        renamed[own] = tensor
    return renamed


@torch.inference_mode()
def probe_stock(folder: Path, num_words: int) -> tuple[Tensor, ...]:
    """Return what transformers' own class, loaded from a folder, answers to the questions of `certificate.probe`."""
    stock: Any = LlavaForConditionalGeneration
    with silenced():
        model = stock.from_pretrained(folder, dtype="auto").eval()
    vision = model.config.vision_config
    has_class = model.config.vision_feature_select_strategy == "full" and vision.model_type == "clip_vision_model"
    num_image_tokens = (vision.image_size // vision.patch_size) ** 2 + has_class
    answers, asked = [], questions(num_words, vision.image_size, num_image_tokens)
    if (asked[0][0] == model.config.image_token_id).any():  # a spare row of the tables, asked for as a word
        model.config.image_token_id = next(word for word in range(num_words) if not (asked[0][0] == word).any())
    for ids, pictures in asked:
        ids = ids.masked_fill(ids == IMAGE_TOKEN_INDEX, model.config.image_token_id)
        output = model(input_ids=ids, pixel_values=None if pictures is None else pictures.to(model.dtype))
        answers.append(output.logits[0].float())
    return (*answers, look_up(model.get_input_embeddings(), num_words, model.device))


def _hf_config(spec: ModelSpec, picture: int, num_words: int, num_image_tokens: int, dtype: str) -> dict[str, Any]:
    text = {**spec.decoder, "vocab_size": num_words, "dtype": dtype}
    if rope := dict(text.get("rope_parameters") or {}):  # what versions before 5 look for
        text["rope_theta"] = rope.pop("rope_theta", 10000.0)
        text["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    has_class = spec.vision_encoder["model_type"] == "clip_vision_model"
    num_layers = spec.vision_encoder["num_hidden_layers"]
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": dtype,
        "torch_dtype": dtype,
        "image_token_index": picture,
        "image_seq_length": num_image_tokens,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "text_config": text,
        "tie_word_embeddings": bool(text.get("tie_word_embeddings")),
        "vision_config": {**spec.vision_encoder, "num_hidden_layers": num_layers + bool(num_layers)},
        "vision_feature_layer": -2 if num_layers else -1,
        "vision_feature_select_strategy": "default" if has_class and spec.select_feature == "patch" else "full",
    }


def _read_spec(config: Mapping[str, Any], path: Path, weights: Mapping[str, Tensor]) -> ModelSpec:
    """Return what a llava-hf `config.json` says, the encoder cut to the layers that run."""
    if config["model_type"] != "llava":
        raise InputError(f"{path}: expected model_type 'llava', found {config['model_type']!r}")
    layer, strategy = config.get("vision_feature_layer", -2), config.get("vision_feature_select_strategy", "default")
    kinds = (config.get("projector_hidden_act", "gelu"), config.get("multimodal_projector_bias", True))
    if not isinstance(layer, int) or strategy not in ("default", "full") or kinds != ("gelu", True):
        raise InputError(
            f"{path}: expected one vision_feature_layer, strategy default or full and a projector of gelu with biases, "
            f"found {layer}, {strategy} and {kinds}"
        )
    text: dict[str, Any] = {"model_type": "llama", **config["text_config"]}
    vision: dict[str, Any] = {"model_type": "clip_vision_model", **config["vision_config"]}
    if "vocab_size" not in text:  # llava-hf leaves defaults out
        text["vocab_size"] = len(weights[TABLES[0]]) if TABLES[0] in weights else 32000
    vision["num_hidden_layers"] = count_layers_to_run(vision.get("num_hidden_layers", 12), layer)
    for settings in (text, vision):
        for name in ("architectures", "_name_or_path", "torch_dtype", "dtype", "transformers_version"):
            settings.pop(name, None)
    is_patch = strategy == "default" or vision["model_type"] != "clip_vision_model"
    return ModelSpec(vision, "patch" if is_patch else "cls_patch", "mlp2x_gelu", text)


def _layer_above(weights: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Return a layer of the encoder above the one that is used: a copy of that one, whose output nobody asks for.

    Behind the last layer some readers go on to the encoder's last norm (SigLIP in transformers 4, vLLM), which no
    feature of training has seen. llava-hf's own folders have a layer above, too.
    """
    last = spec.vision_encoder["num_hidden_layers"] - 1
    old, new = (f"vision_encoder.model.encoder.layers.{number}." for number in (last, last + 1))
    return {new + name.removeprefix(old): tensor.clone() for name, tensor in weights.items() if name.startswith(old)}


def _is_above(name: str, spec: ModelSpec) -> bool:
    """Whether a tensor belongs to a layer of the encoder that does not run."""
    match = re.match(r"vision_encoder\.model\.encoder\.layers\.(\d+)\.", name)
    return match is not None and int(match[1]) >= spec.vision_encoder["num_hidden_layers"]


def _with_rows(name: str, tensor: Tensor, num_words: int) -> Tensor:
    """Return a table with a row for every word; a new one is the mean of the others, so that it is never said."""
    missing = num_words - len(tensor) if name in TABLES else 0
    if missing <= 0:
        return tensor
    return torch.cat([tensor, tensor.float().mean(0, keepdim=True).to(tensor.dtype).expand(missing, -1)])
