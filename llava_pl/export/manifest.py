"""`manifest.json`: what a folder holds and what it was made from, and whether that is still true.

In: a model that is written, or a folder that is read. Out: the file, or one line about the first thing that it says and
that is not so. Folders of other programs have none.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_pl.data.json_files import read_json_object
from llava_pl.data.settings import DataSettings
from llava_pl.export.pretrained import BaseModel, Layout, Origin, Pretrained
from llava_pl.export.weights import hash_file
from llava_pl.types import InputError

MANIFEST_FILE = "manifest.json"
LAYOUT_VERSION = 1
"""Of all layouts together; it rises when a folder of before needs another reader."""

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".index.json")


def versions() -> dict[str, str]:
    """Return the versions of what reads and writes models."""
    packages = ("llava_pl", "torch", "transformers", "safetensors", "tokenizers", "peft")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def write_manifest(
    pretrained: Pretrained,
    weights: Mapping[str, Tensor],
    folder: Path,
    layout: Layout,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write what a folder holds, once its weights lie there.

    Args:
        pretrained: Whose origin and settings are told.
        weights: The tensors of the folder under the names that they have there.
        folder: Where the manifest goes.
        layout: The form of the folder.
        extra: What the form itself cannot tell, as plain values.
    """
    origin = pretrained.origin
    content = {
        "layout": layout,
        "layout_version": LAYOUT_VERSION,
        "made_from": origin.layout,
        "made_with": versions(),
        "base_models": {part: _plain_base(base) for part, base in origin.bases.items()},
        "vocabulary": pretrained.model.decoder.num_embeddings,
        "trained": list(origin.trained),
        "data": pretrained.settings.to_plain(),
        "data_hash": origin.data_hash,
        **(extra or {}),
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
            for name in _weight_files(folder)
        },
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in weights.items()
        },
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what a folder says about itself, None if it says nothing.

    Every weights file is read once for its hash.

    Raises:
        InputError: The manifest is no manifest, is of a later layout, or a file is not as it says.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    content = read_json_object(path)
    if content.get("layout_version") != LAYOUT_VERSION:
        found = content.get("layout_version")
        raise InputError(f"{path}: expected layout_version {LAYOUT_VERSION}, found {found!r}; update llava_pl")
    for name, kind in (
        ("layout", str),
        ("files", dict),
        ("tensors", dict),
        ("base_models", dict),
        ("trained", list),
        ("vocabulary", int),
    ):
        if not isinstance(content.get(name), kind):
            raise InputError(f"{path}: expected a field {name!r} ({kind.__name__}), found {content.get(name)!r}")
    if odd := sorted(name for name in _weight_files(folder) if name not in content["files"]):
        raise InputError(f"{path}: file {odd[0]!r} is not in the manifest; remove it, or fetch the folder again")
    for name, file in content["files"].items():
        _check_file(path, name, file)
    return content


def check_tensors(manifest: Mapping[str, Any] | None, weights: Mapping[str, Tensor], where: Path) -> None:
    """Check that the tensors of a folder are those that its manifest lists, if it has one.

    Raises:
        InputError: One is missing or extra, or has another shape or dtype.
    """
    if manifest is None:
        return
    said, path = manifest["tensors"], where / MANIFEST_FILE
    if odd := sorted(said.keys() ^ weights.keys()):
        place = "in no file" if odd[0] in said else "not in the manifest"
        raise InputError(f"{path}: tensor {odd[0]!r} is {place}; fetch the folder again")
    for name, tensor in weights.items():
        found = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        if said[name] != found:
            raise InputError(f"{path}: tensor {name!r}: expected {said[name]}, found {found}; fetch the folder again")


def origin_of(manifest: Mapping[str, Any] | None, layout: Layout, folder: Path) -> Origin:
    """Return where the model of a folder comes from, as far as its manifest tells.

    Raises:
        InputError: What it tells about base models is of another form.
    """
    if manifest is None:
        return Origin(layout)
    try:
        bases = {part: BaseModel(**base) for part, base in manifest["base_models"].items()}
    except (TypeError, AttributeError) as error:
        raise InputError(f"{folder / MANIFEST_FILE}: base_models: expected name and sha256 of each part") from error
    return Origin(layout, bases, tuple(manifest["trained"]), manifest.get("data_hash"))


def settings_of(manifest: Mapping[str, Any] | None, folder: Path) -> DataSettings | None:
    """Return how text and pictures became samples, None where the folder has no manifest."""
    return (
        None if manifest is None else DataSettings.from_plain(manifest.get("data"), f"{folder / MANIFEST_FILE}: data")
    )


def _weight_files(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.name.endswith(WEIGHT_SUFFIXES))
    return [path.relative_to(folder).as_posix() for path in paths]


def _plain_base(base: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in asdict(base).items() if name != "path"}


def _check_file(path: Path, name: str, said: object) -> None:
    target = path.parent / name
    if not target.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(f"{path}: file {name!r} lies outside the folder; expected a name inside it")
    if not target.is_file():
        raise InputError(f"{path}: file {name!r} is missing; fetch it again")
    found = {"bytes": target.stat().st_size, "sha256": hash_file(target)}
    if said != found:
        raise InputError(f"{path}: file {name!r} is not the one that was written: expected {said}, found {found}")
