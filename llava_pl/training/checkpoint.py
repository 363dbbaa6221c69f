"""What a checkpoint holds: the trained weights, and nothing that can be had elsewhere."""

from __future__ import annotations

from typing import Any

from llava_pl.export.initial_weights import check_shape
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
        InputError: Unexpected or missing names, or a shape that differs.
    """
    own = dict(model.named_parameters())
    unexpected = sorted(name for name in state_dict if not name.startswith(prefix) or name[len(prefix) :] not in own)
    missing = sorted(name for name, p in own.items() if p.requires_grad and prefix + name not in state_dict)
    # Stage 1 may be evaluated under the settings of stage 2; but a newline that was just drawn makes noise of answers.
    if unexpected or (missing and (is_resumed or "image_newline" in missing)):
        raise InputError(
            f"checkpoint: its trained weights do not fit this model: {len(missing)} missing"
            f"{_example(missing)}, {len(unexpected)} unexpected{_example(unexpected)}; "
            "check model.stage, data.image_aspect, model.trainable and the parts that the run was made with"
        )
    for name, tensor in state_dict.items():
        check_shape("checkpoint", name.removeprefix(prefix), tensor, own)


def _example(names: list[str]) -> str:
    return f" (such as {names[0]!r})" if names else ""
