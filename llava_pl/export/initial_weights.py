"""Trained weights of an earlier run, or of the original's projector file, into a model.

In: a path, as ``model.init_from`` names it. Out: a model whose parameters are overwritten, every tensor used once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from llava_pl.export.artifact import is_artifact, read_projector
from llava_pl.export.checkpoint_file import read_checkpoint_file
from llava_pl.export.original import PROJECTOR_FILE, find_newline, is_original, projector_weights
from llava_pl.export.shards import is_sharded
from llava_pl.export.streaming import WeightStream
from llava_pl.export.weights import check_weights, has_weights, read_weights
from llava_pl.models.adapters import LEARNED_ROWS, LoraConfig, is_adapter, plain_name, plain_table
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.division import whole_shape
from llava_pl.models.llava import LlavaModel
from llava_pl.models.vocabulary import row_tables, set_rows
from llava_pl.types import InputError


def load_initial_weights(
    model: LlavaModel,
    path: str | Path,
    *,
    lora: LoraConfig | None = None,
    keeps_adapters: bool = True,
    stream: WeightStream | None = None,
) -> set[str]:
    """Copy trained weights of an earlier run into the model, and return the names of what was overwritten.

    Args:
        model: Whose parameters are overwritten; dtype and device stay.
        path: A checkpoint of this project (its weights only, no optimizer state), or an original `mm_projector.bin` or
            model folder, or a folder that `llava-pl import` made: its projector, its newline embedding if it has one,
            and from a `mm_projector.bin` the word embeddings of new tokens, if there are any; those of a whole model
            are the decoder's.
        lora: How the model uses its adapters, if it has any.
        keeps_adapters: Adapters in a checkpoint need a place in the model; otherwise they are passed over.
        stream: What fills the model's stand-ins, if it has any.

    Raises:
        InputError: Nothing to load, or tensors do not fit.
    """
    path = Path(path)
    where = f"model.init_from: {path}"
    if not has_weights(path) and (path / PROJECTOR_FILE).is_file():
        path = path / PROJECTOR_FILE
    if path.is_dir() and path.suffix != ".ckpt" and not (is_sharded(path) or is_original(path) or is_artifact(path)):
        raise InputError(f"{where}: expected a .ckpt file, {PROJECTOR_FILE} or a LLaVA folder")
    if path.suffix == ".ckpt" or is_sharded(path):
        try:
            content = read_checkpoint_file(path)
        except InputError as error:
            raise InputError(f"model.init_from: {error}") from error
        if lora is not None:
            check_lora(content.get("hyper_parameters", {}), lora, where=where)
        weights = {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}
        weights = {name: tensor for name, tensor in weights.items() if keeps_adapters or not is_adapter(name)}
        if not any(name.startswith("projector.") for name in weights) and list(model.projector.parameters()):
            # Of an older version, which kept trained weights alone.
            raise InputError(
                f"{where}: holds no projector, which its run did not train; without one this run would start from a "
                "random one. Start from the checkpoint that it was started from, or from what `llava-pl import` makes "
                "of it"
            )
    elif is_artifact(path):
        weights = read_projector(path)
    else:
        content = read_weights(path, is_mapped=stream is not None)
        weights = {f"projector.{name}": tensor for name, tensor in projector_weights(content, path).items()}
        if (newline := find_newline(content)) is not None:
            weights["image_newline"] = newline
        name = cast("CausalDecoder", model.decoder).embedding_name
        if path.is_file() and model.new_token_ids and (table := content.get(name)) is not None:
            weights[_embedding_rows(model)] = _add_patch_row(table, model)
    check_weights(weights, where)
    return copy_initial_weights(model, weights, where=where, stream=stream)


def check_lora(settings: Mapping[str, Any], lora: LoraConfig, *, where: str) -> None:
    """Check that adapters are used as they were trained; their scale is nowhere in their weights.

    Args:
        settings: The hyper-parameters of the run that trained them.
        lora: How the model uses them.
        where: What an error begins with.

    Raises:
        InputError: They were scaled otherwise.
    """
    if (given := settings.get("lora")) is None:
        return
    for name in ("rank", "alpha", "use_rslora", "use_dora"):
        if given.get(name) != getattr(lora, name):
            raise InputError(
                f"{where}: its adapters have {name} {given.get(name)}, this model's {getattr(lora, name)}; "
                f"set model.lora.{name} as in the run that trained them"
            )


def copy_initial_weights(
    model: LlavaModel, weights: Mapping[str, Tensor], *, where: str, stream: WeightStream | None = None
) -> set[str]:
    """Copy tensors into a model that may hold adapters which the run that trained them did not have.

    Args:
        model: Whose weights are overwritten.
        weights: By the names of that run's model.
        where: What an error begins with.
        stream: What fills the model's stand-ins, if it has any.

    Returns:
        The names of the tensors of the model that were overwritten whole; rows of new tokens are in none of them.

    Raises:
        InputError: A tensor has no place, has another shape, or is missing beside its like.
    """
    own = places(model)
    # Where a layer has got an adapter, its own weight is now called otherwise.
    present = {plain_name(name): name for name in own}
    weights = {n if n in own else present.get(plain_name(n), n): tensor for n, tensor in weights.items()}
    rows = _take_new_rows(weights, model, where=where)
    for name, tensor in weights.items():
        if name not in own:
            hint = "check model.projector, data.image_start_end and data.image_aspect"
            if is_adapter(name):
                hint = "set model.trainable and model.lora as in the run that trained it"
            found = f"found shape {tuple(tensor.shape)}, expected no such parameter in this model"
            raise InputError(f"{where}: {name}: {found}; {hint}")
        check_shape(where, name, tensor, own)
        if name.replace(".base_layer.weight", ".lora_magnitude_vector.default.weight") in own.keys() - weights.keys():
            raise InputError(
                f"{where}: {name}: DoRA has measured the weights of model.decoder.path already; give the trained ones "
                "there, or switch model.lora.use_dora off"
            )
    if missing := _find_missing(weights, model):
        raise InputError(f"{where}: holds no {missing} for this model; check model.projector and model.lora")
    with torch.no_grad():
        for name, tensor in weights.items():
            place = own[name]
            if stream is not None and isinstance(place, nn.Parameter) and place in stream:
                stream.replace(place, name, tensor)
            else:
                place.copy_(tensor)
    for name, layer in row_tables(model).items():
        if name in rows:
            set_rows(layer, model.new_token_ids, rows[name])
    return set(weights)


def places(model: LlavaModel) -> dict[str, Tensor]:
    """Return the tensors of a model that a checkpoint may hold: its parameters, and the whole state of its projector.

    A projector from outside may count in buffers what it has seen; those of encoder and decoder are computed.
    """
    state = model.projector.state_dict(keep_vars=True)
    return {**dict(model.named_parameters()), **{f"projector.{name}": tensor for name, tensor in state.items()}}


def _find_missing(weights: Mapping[str, Tensor], model: LlavaModel) -> str | None:
    """Return a parameter without a tensor of its own whose like have theirs.

    A run keeps all or nothing of a part and of its adapters; embeddings and biases may learn alone.
    """
    embeddings = _table_names(model)
    unused = {id(parameter) for parameter in model.vision_encoder.unused_parameters}

    def kind(name: str) -> str:
        part = name.partition(".")[0]
        if is_adapter(name):
            return f"adapters of {part}"
        return name if name in embeddings or (name.endswith("bias") and part != "projector") else part

    kinds = {kind(name) for name in weights}
    missing = (n for n, p in model.named_parameters() if n not in weights and id(p) not in unused and kind(n) in kinds)
    return next(missing, None)


def _take_new_rows(weights: dict[str, Tensor], model: LlavaModel, *, where: str) -> dict[str, Tensor]:
    """Return the rows of new tokens by their names, in whichever form a file has them.

    Those that are no tensors of the model are taken out.
    """
    ids, taken = list(model.new_token_ids), {}
    own = dict(model.named_parameters())
    learned = [name for name in weights if name.endswith(LEARNED_ROWS)]
    whole = [name for name in _table_names(model) if name in weights]
    for name in row_tables(model):
        # A head in a file is copied whole, or its rows are; those of the embeddings may lie apart from their table.
        forms = [name, *learned, *whole] if name == _embedding_rows(model) else [name]
        if (form := next((form for form in forms if form in weights), None)) is None:
            continue
        found = weights[form] if form in own else weights.pop(form)
        if found.ndim == 2 and len(found) > max(ids):
            found = found[ids]
        if found.shape != (len(ids), model.decoder.width):
            raise InputError(
                f"{where}: word embeddings of new tokens: found shape {tuple(found.shape)}, expected those of "
                f"{len(ids)} tokens, shape {(len(ids), model.decoder.width)}, or a table with them; check "
                "data.image_start_end and data.image_patch_token"
            )
        _check_numbers(where, name, found)
        taken[name] = found
    return taken


def _add_patch_row(rows: Tensor, model: LlavaModel) -> Tensor:
    """Return what an original file has of the word embeddings, with a row for ``<im_patch>`` where it has none.

    LLaVA: a file may hold the whole table, or the rows of ``<im_start>`` and ``<im_end>`` alone.
    """
    ids = model.new_token_ids
    if rows.shape != (2, model.decoder.width) or len(ids) != 3:
        return rows
    patch = plain_table(model.decoder.embedding).weight.detach()[ids[0]]
    return torch.cat([patch[None].to(rows.device), rows])


def _embedding_rows(model: LlavaModel) -> str:
    """Return the name of the word embeddings of new tokens."""
    return next(name for name, layer in row_tables(model).items() if layer is model.decoder.embedding)


def _table_names(model: LlavaModel) -> list[str]:
    """Return the names of the parameters that hold the word embeddings."""
    table = {id(parameter) for parameter in model.decoder.embedding.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in table]


def check_shape(where: str, name: str, tensor: Tensor, own: Mapping[str, Tensor]) -> None:
    """Check that a tensor can be copied into the parameter of its name.

    Raises:
        InputError: It has another shape or whole numbers, or the parameter is quantized.
    """
    # One of 8 bits has the shape of the weight that it stands for; a buffer may count.
    is_quantized = isinstance(own[name], nn.Parameter) and not own[name].is_floating_point()
    if own[name].is_floating_point():
        _check_numbers(where, name, tensor)
    if whole_shape(own[name]) == tensor.shape and not is_quantized:
        return
    expected = f"shape {tuple(whole_shape(own[name]))}"
    hint = "check model.projector and the parts that the run was made with"
    if is_adapter(name):
        hint = "set model.lora.rank as in the run that trained it"
    elif is_quantized:
        expected, hint = "a quantized weight", "give weights trained in full as model.decoder.path"
    raise InputError(f"{where}: {name}: found shape {tuple(tensor.shape)}, expected {expected}; {hint}")


def _check_numbers(where: str, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise InputError(f"{where}: {name}: expected floating-point numbers, found {tensor.dtype}; use another file")
