"""A checkpoint in several files, written by ranks that together hold a model once: a folder named like a checkpoint.

In: such a folder. Out: what a single file would hold. Each tensor lies whole in exactly one of the files, so that any
number of ranks, under any strategy, can read it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json_object
from llava_pl.types import InputError

INDEX_FILE = "index.json"
"""Written last: a folder without it is the remains of a save that did not end."""


def shard_path(folder: Path, rank: int) -> Path:
    """Return the file of a rank.

    >>> shard_path(Path("step=10.ckpt"), 3).as_posix()
    'step=10.ckpt/00003.pt'
    """
    return folder / f"{rank:05}.pt"


def is_sharded(path: Path) -> bool:
    """Whether a path is a checkpoint in several files, all of which were written."""
    return (path / INDEX_FILE).is_file()


def check_no_shard(path: Path, where: str = "") -> None:
    """Check that a path is not that of one file within a checkpoint of several.

    Args:
        path: Of a checkpoint, as a user gives it.
        where: What an error begins with.

    Raises:
        InputError: It is.
    """
    if path.suffix == ".pt" and is_sharded(path.parent):
        raise InputError(f"{where}{path}: expected a checkpoint, found one of its files; give the folder {path.parent}")


def find_shards(folder: Path) -> list[Path]:
    """Return the files of a checkpoint, that of the first rank first.

    Raises:
        InputError: The folder has no index, or one that is none, or a file is missing.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        raise InputError(f"{folder}: expected a checkpoint, found a folder without {INDEX_FILE}; use another one")
    num_files = read_json_object(index).get("num_files")
    if not isinstance(num_files, int) or num_files < 1:
        raise InputError(f"{index}: expected the number of files as 'num_files', found {num_files!r}")
    paths = [shard_path(folder, rank) for rank in range(num_files)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise InputError(f"{folder}: {len(missing)} of its {num_files} files are missing, such as {missing[0]}")
    return paths


def read_shards(folder: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """Return what a single file would hold: the content of the first rank, with the tensors of all.

    Args:
        folder: Of the checkpoint.
        read: Reads one file: ``state_dict``, ``optimizer_states`` if they were saved (as torch has them, ``state`` by
            the number of the parameter), and of the first rank all else.

    Raises:
        InputError: As `find_shards`, and whatever `read` raises.
    """
    paths = find_shards(folder)
    contents = [read(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
            raise InputError(f"{path}: expected a rank's part of a checkpoint with a 'state_dict', found none")
        first = contents[0].get("global_step")
        if (step := content.get("global_step", first)) != first:
            raise InputError(f"{path}: expected a file of the same save as {paths[0].name}, step {first}, found {step}")
    merged = dict(contents[0])
    merged["state_dict"] = {name: tensor for content in contents for name, tensor in content["state_dict"].items()}
    if "optimizer_states" in merged:
        merged["optimizer_states"] = [
            {**parts[0], "state": {number: state for part in parts for number, state in part["state"].items()}}
            for parts in zip(*(content["optimizer_states"] for content in contents), strict=True)
        ]
    return merged
