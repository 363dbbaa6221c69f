"""What a checkpoint holds: all that its base models do not, and nothing that they do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llava_pl.export.initial_weights import check_shape, places
from llava_pl.models.adapters import learned_rows
from llava_pl.models.llava import LlavaModel
from llava_pl.models.vocabulary import NEW_ROWS, row_tables, set_rows
from llava_pl.types import InputError


def keep_own(
    state_dict: Mapping[str, Any], model: LlavaModel, prefix: str, *, replaced: Collection[str] = ()
) -> dict[str, Any]:
    """Return the entries of a state dict that no base model holds, and the rows of new tokens in tables that one does.

    Args:
        state_dict: Of a module that has the model.
        model: Whose entries are kept: what learns, the projector and the newline even where they are frozen.
        prefix: How the model's names begin in the state dict.
        replaced: Names in the model of further parameters that are not what the base models hold.
    """
    return cut_rows(find_own(state_dict, model, prefix, replaced=replaced), model)


def find_own(
    state_dict: Mapping[str, Any], model: LlavaModel, prefix: str, *, replaced: Collection[str] = ()
) -> dict[str, Any]:
    """Return what `keep_own` does, but under the name of rows of new tokens the table that they are in.

    Of a model that is divided among devices they can be cut out only once the table is whole.
    """
    names = {prefix + name for name in _own_names(model, replaced)}
    own = {name: value for name, value in state_dict.items() if name in names}
    for name in sorted(name for name in names if name.endswith(NEW_ROWS)):
        own[name] = state_dict[name.removesuffix(NEW_ROWS)]
    return own


def cut_rows(own: Mapping[str, Any], model: LlavaModel) -> dict[str, Any]:
    """Return the same with the rows of new tokens in place of their tables."""
    ids = list(model.new_token_ids)
    return {name: value[ids] if name.endswith(NEW_ROWS) else value for name, value in own.items()}


def check_kept(
    state_dict: dict[str, Any],
    model: LlavaModel,
    prefix: str,
    *,
    is_resumed: bool,
    replaced: Collection[str] | None = (),
    learned: Collection[str] | None = None,
) -> None:
    """Check that a checkpoint's weights have their place in the model, and that none is missing when resuming.

    Lightning loads with ``strict=False`` here, because the base models' weights are absent; without this check a
    renamed parameter would be dropped without a word.

    Args:
        state_dict: Of the checkpoint.
        model: Which is to take it.
        prefix: How the model's names begin.
        is_resumed: The run goes on; otherwise stage 1 may be evaluated under the settings of stage 2.
        replaced: Names of parameters that are no longer what the base models hold, all of which it must overwrite; None
            for a checkpoint of an older version, which holds trained weights alone.
        learned: Names of what the run trained, where the checkpoint tells: its optimizer knows nothing of others.

    Raises:
        InputError: Unexpected or missing names, a shape that differs, or a run that is to train something else.
    """
    own, tables = places(model), row_tables(model)
    found = {name.removeprefix(prefix) for name in state_dict}
    unexpected = sorted(state_dict.keys() - {prefix + name for name in (*own, *tables)})
    trained = {name for name, tensor in own.items() if tensor.requires_grad}
    missing = sorted((trained if replaced is None else _own_names(model, {*found, *replaced})) - found)
    # A newline or a projector that was just drawn makes noise of answers.
    needed = {name for name in missing if name == "image_newline"}
    if replaced is not None:
        needed |= {name for name in missing if name.startswith("projector.") or name in replaced}
    if unexpected or needed or (missing and is_resumed):
        raise InputError(
            f"checkpoint: its trained weights do not fit this model: {len(missing)} missing"
            f"{_example(missing)}, {len(unexpected)} unexpected{_example(unexpected)}; "
            "check model.stage, data.image_aspect, model.trainable, model.init_from and the parts of the run"
        )
    if is_resumed and learned is not None and (differing := sorted(trained ^ set(learned))):
        raise InputError(
            f"checkpoint: its run trains other weights than this one, {len(differing)} of them differ"
            f"{_example(differing)}; resume with its model.stage, model.trainable and model.lora, or begin a new run "
            "with model.init_from"
        )
    for name, tensor in state_dict.items():
        name = name.removeprefix(prefix)
        if name in tables and tensor.shape != (len(model.new_token_ids), model.decoder.width):
            raise InputError(
                f"checkpoint: {name}: found shape {tuple(tensor.shape)}, expected rows of {len(model.new_token_ids)} "
                "new tokens; check data.image_start_end and data.image_patch_token"
            )
        if name in own:
            check_shape("checkpoint", name, tensor, own)


def take_rows(state_dict: dict[str, Any], model: LlavaModel, prefix: str) -> None:
    """Move the rows of new tokens from a state dict, where Lightning would pass over them, into the model's tables."""
    for name, layer in row_tables(model).items():
        if (rows := state_dict.pop(prefix + name, None)) is not None:
            set_rows(layer, model.new_token_ids, rows)


def _own_names(model: LlavaModel, replaced: Collection[str]) -> set[str]:
    """Return the names in the model of what a checkpoint of it holds."""
    names = {
        name
        for name, tensor in places(model).items()
        if tensor.requires_grad or name == "image_newline" or name.startswith("projector.") or name in replaced
    }
    for name, layer in row_tables(model).items():
        # Otherwise they are among these already: with the whole table, or as the rows that learn apart.
        if name.removesuffix(NEW_ROWS) not in names and learned_rows(layer) is None:
            names.add(name)
    return names


def _example(names: list[str]) -> str:
    return f" (such as {names[0]!r})" if names else ""
