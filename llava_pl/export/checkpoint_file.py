"""A checkpoint to its content, once every entry that this package reads is of its kind.

In: a `.ckpt` file, or folder of files. Out: what it holds, or one line about the first entry that is something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor

from llava_pl.export.shards import check_no_shard, read_shards
from llava_pl.export.weights import read_torch_file
from llava_pl.types import InputError

ENTRIES: dict[str, dict[str, tuple[type, ...]]] = {
    "hyper_parameters": {
        "vision_encoder": (Mapping,), "decoder": (Mapping,), "projector": (str,),
        "projector_options": (Mapping, NoneType), "lora": (Mapping, NoneType), "init_from": (str, NoneType),
    },
    "carried": {"data": (Mapping,), "bases": (Mapping, NoneType), "learned": (list,), "data_hash": (str, NoneType)},
}  # fmt: skip
"""What is read of a checkpoint beside its weights, where it is there."""

AGAIN = "it is no checkpoint of llava-pl fit, or a changed one; use another"


def read_checkpoint_file(path: Path, *, unsafe: bool = False) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Args:
        path: The file, or the folder with those of several ranks.
        unsafe: Read one that holds pickled objects, too, which can run any code.

    Raises:
        InputError: It cannot be read, or is of another form.
    """
    check_no_shard(path)
    # Mapped: a run gives a file its name when it is whole, and writes to it no more.
    read = partial(read_torch_file, unsafe=unsafe, is_mapped=True)
    content = read_shards(path, read) if path.is_dir() else read(path)
    if not isinstance(content, dict) or not content.get("state_dict"):
        raise InputError(f"{path}: expected a Lightning checkpoint with a 'state_dict', found none")
    state = content["state_dict"]
    _check(path, "state_dict", state, (Mapping,))
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: state_dict: expected names of tensors, found {name!r}; {AGAIN}")
        _check(path, f"state_dict.{name}", tensor, (Tensor,))
    for entry, kinds in ENTRIES.items():
        values = content.get(entry, {})
        _check(path, entry, values, (Mapping,))
        for name in kinds.keys() & values.keys():
            _check(path, f"{entry}.{name}", values[name], kinds[name])
    for name in content.get("carried", {}).get("learned", []):
        _check(path, "carried.learned", name, (str,))
    return content


def _check(path: Path, what: str, value: object, kinds: tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        names = {Mapping: "a dictionary", Tensor: "a tensor", str: "a text", list: "a list", NoneType: "None"}
        expected = " or ".join(names[kind] for kind in kinds)
        raise InputError(f"{path}: {what}: expected {expected}, found {type(value).__name__} {value!r:.40}; {AGAIN}")
