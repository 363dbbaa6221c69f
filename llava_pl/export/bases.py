"""The models that a run is built upon, told by hashes of their files: another under the same path is noticed.

In: where they are. Out: what a checkpoint says of them as ``carried.bases``, and one line if they are others later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json
from llava_pl.export.pretrained import BaseModel
from llava_pl.export.weights import find_folder, hash_file, hash_weights
from llava_pl.types import InputError

OPTIONS = {"vision_encoder": "--vision_encoder", "decoder": "--base"}
"""The parts that are made of a base model, and how `export`, `import` and `certify` are told where one is."""


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
SETTINGS_FILES = ("config.json", "preprocessor_config.json", *TOKENIZER_FILES)
"""What decides, beside its weights, how a base model answers."""

INCIDENTAL = {"transformers_version", "torch_dtype", "dtype", "_name_or_path", "architectures", "use_cache"}
"""Fields of `config.json` that say who wrote it and how it is to be held, and nothing of its answers."""


def name_of(path: str | Path) -> str:
    """Return how a manifest calls a model: by its hub name, or by the name of its folder on whatever machine."""
    return Path(path).resolve().name if Path(path).exists() else str(path)


def describe_base(path: str | Path) -> BaseModel:
    """Return name and hashes of a model, whose files are read for it; no hashes where they are not on this machine.

    Raises:
        InputError: A file is damaged.
    """
    return BaseModel(name_of(path), hash_weights(path), settings=hash_settings(path), path=str(path))


def hash_settings(path: str | Path) -> dict[str, str]:
    """Return the hash of each file of a model's settings and tokenizer that is on this machine.

    Settings count by what they say, not by how it is written.

    Raises:
        InputError: A file of settings is no JSON.
    """
    files = [file for name in SETTINGS_FILES if (file := find_folder(path) / name).is_file()]
    return {file.name: hash_file(file) if file.name in TOKENIZER_FILES else _hash_json(file) for file in files}


def _hash_json(file: Path) -> str:
    return sha256(json.dumps(_essential(read_json(file)), sort_keys=True).encode()).hexdigest()


def _essential(value: Any) -> Any:  # noqa: ANN401  whatever JSON holds
    if isinstance(value, dict):
        return {name: _essential(item) for name, item in value.items() if name not in INCIDENTAL}
    return value


def write_bases(bases: Mapping[str, BaseModel]) -> dict[str, dict[str, Any]]:
    """Return, as plain values, name and hashes of each part's base model."""
    return {
        part: {"name": base.name, "sha256": base.sha256, "settings": dict(base.settings)}
        for part, base in bases.items()
    }


def read_bases(carried: Mapping[str, Any], where: object) -> dict[str, BaseModel] | None:
    """Return what a checkpoint says of its base models, None if it is of an older version and says nothing.

    Args:
        carried: Its entry of that name.
        where: What an error begins with.

    Raises:
        InputError: It says it in another form.
    """
    if (said := carried.get("bases")) is None:
        return None
    try:
        return {
            part: BaseModel(base["name"], base["sha256"], settings=dict(base["settings"]))
            for part, base in said.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: carried.bases: expected name, sha256 and settings of each part, found {said}"
        ) from error


def check_base(part: str, expected: BaseModel | None, found: BaseModel, where: object) -> None:
    """Check that a base model is the one that something was trained upon, in all files whose hashes are known of both.

    Raises:
        InputError: It is another.
    """
    if expected is None:
        return
    told = {"weights": expected.sha256, **expected.settings}
    for what, known in told.items():
        other = {"weights": found.sha256, **found.settings}.get(what)
        if None not in (known, other) and known != other:
            raise InputError(
                f"{where}: wrong {part}: expected the {what} of {expected.name} that it was trained upon (sha256 "
                f"{str(known)[:12]}), found {found.path} ({str(other)[:12]}); give those, in a run as "
                f"model.{part}.path, else as {OPTIONS[part]}"
            )
