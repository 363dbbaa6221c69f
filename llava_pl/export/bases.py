"""The models that a run is built upon, told by the hash of their weights: another under the same path is noticed.

In: where they are. Out: what a checkpoint says of them as ``carried.bases``, and one line if they are others later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_pl.export.original_folder import name_of
from llava_pl.export.pretrained import BaseModel
from llava_pl.export.weights import hash_weights
from llava_pl.types import InputError

OPTIONS = {"vision_encoder": "--vision-encoder", "decoder": "--base"}
"""The parts that are made of a base model, and how `export`, `import` and `certify` are told where one is."""


def describe_base(path: str) -> BaseModel:
    """Return name and hash of a model, whose weights are read for it; no hash where they are not on this machine."""
    return BaseModel(name_of(path), hash_weights(path), path=path)


def write_bases(bases: Mapping[str, BaseModel]) -> dict[str, dict[str, str | None]]:
    """Return, as plain values, name and hash of each part's base model."""
    return {part: {"name": base.name, "sha256": base.sha256} for part, base in bases.items()}


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
        return {part: BaseModel(base["name"], base["sha256"]) for part, base in said.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{where}: carried.bases: expected name and sha256 of each part, found {said}") from error


def check_base(part: str, expected: BaseModel | None, found: BaseModel, where: object) -> None:
    """Check that a base model is the one that a checkpoint was trained upon, where both hashes are known.

    Raises:
        InputError: It is another.
    """
    if expected is None or None in (expected.sha256, found.sha256) or expected.sha256 == found.sha256:
        return
    raise InputError(
        f"{where}: wrong {part}: expected the weights of {expected.name} that it was trained upon (sha256 "
        f"{str(expected.sha256)[:12]}), found {found.path} ({str(found.sha256)[:12]}); give those, in a run as "
        f"model.{part}.path, else as {OPTIONS[part]}"
    )
