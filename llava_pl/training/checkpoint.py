"""What a checkpoint holds: the trained weights, and nothing that can be had elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_pl.export.original import PROJECTOR_FILE, find_newline, is_original, projector_weights
from llava_pl.export.weights import has_weights, read_torch_file, read_weights
from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError


def keep_trained(state_dict: dict[str, Any], model: LlavaModel, prefix: str) -> dict[str, Any]:
    """Return the entries of a state dict that belong to trainable parameters; frozen ones are on disk already."""
    trained = {prefix + name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in state_dict.items() if name in trained}


def check_trained(state_dict: dict[str, Any], model: LlavaModel, prefix: str, *, is_resumed: bool) -> None:
    """Check that a checkpoint's weights are parameters of the model, and all of the trained ones when resuming.

    Lightning loads with ``strict=False`` here, because frozen weights are absent; without this check a renamed
    parameter would be dropped without a word.

    Raises:
        InputError: Unexpected or missing names.
    """
    own = dict(model.named_parameters())
    unexpected = sorted(name for name in state_dict if not name.startswith(prefix) or name[len(prefix) :] not in own)
    missing = sorted(name for name, p in own.items() if p.requires_grad and prefix + name not in state_dict)
    # Stage 1 may be evaluated under the settings of stage 2; but a newline that was just drawn makes noise of answers.
    if unexpected or (missing and (is_resumed or "image_newline" in missing)):
        raise InputError(
            f"checkpoint: its trained weights do not fit this model: {len(missing)} missing"
            f"{_example(missing)}, {len(unexpected)} unexpected{_example(unexpected)}; "
            "check model.stage, data.image_aspect and the parts that the run was made with"
        )


def load_initial_weights(model: LlavaModel, path: str | Path) -> None:
    """Copy trained weights of an earlier run into the model.

    Args:
        model: Whose parameters are overwritten; dtype and device stay.
        path: A checkpoint of this project (its weights only, no optimizer state), or an original `mm_projector.bin` or
            model folder (its projector, and its newline embedding if it has one).

    Raises:
        InputError: Nothing to load, or tensors do not fit.
    """
    path = Path(path)
    if not has_weights(path) and (path / PROJECTOR_FILE).is_file():
        path = path / PROJECTOR_FILE
    if path.is_dir() and not is_original(path):
        raise InputError(f"model.init_from: {path}: expected a .ckpt file, {PROJECTOR_FILE} or a LLaVA folder")
    if path.suffix == ".ckpt":
        weights = _checkpoint_weights(path)
    else:
        content = read_weights(path)
        weights = {f"projector.{name}": tensor for name, tensor in projector_weights(content, path).items()}
        if (newline := find_newline(content)) is not None:
            weights["image_newline"] = newline
    own = dict(model.named_parameters())
    parts = {name.partition(".")[0] for name in weights}
    if missing := sorted(name for name in own if name.partition(".")[0] in parts and name not in weights):
        raise InputError(f"model.init_from: {path}: holds no {missing[0]} for this model; check model.projector")
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            unknown = "no such parameter in this model; check model.projector and data.image_aspect"
            expected = f"shape {tuple(own[name].shape)}" if name in own else unknown
            raise InputError(f"model.init_from: {path}: {name}: found shape {tuple(tensor.shape)}, expected {expected}")
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)


def _checkpoint_weights(path: Path) -> dict[str, Tensor]:
    content = read_torch_file(path)
    if not isinstance(content, dict) or not content.get("state_dict"):
        raise InputError(f"model.init_from: {path}: expected a Lightning checkpoint with a 'state_dict', found none")
    return {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}


def _example(names: list[str]) -> str:
    return f" (such as {names[0]!r})" if names else ""
