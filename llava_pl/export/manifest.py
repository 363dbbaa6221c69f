"""`manifest.json`: what a folder holds and what it was made from, and whether that is still true.

In: a model that is written, or a folder that is read. Out: the file, or one line about the first thing that it says and
that is not so. Folders of other programs have none.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from types import NoneType
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

FIELDS = {
    "layout": str,
    "files": dict, "tensors": dict, "base_models": dict, "data": dict, "trained": list, "vocabulary": int,
}  # fmt: skip
"""What is in every manifest."""

BASE_FIELDS = {"name": (str,), "sha256": (str, NoneType), "select_layer": (int, NoneType), "settings": (dict,)}
"""What is told about a base model."""

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.index.json")
SETTING_FILES = (
    "*config.json", "*token*.json", "tekken.json", "*.model", "vocab.*", "merges.txt", "chat_template*", "*.jinja",
)  # fmt: skip
"""What programs look for beside the weights: settings, tokenizers, templates. One that lies there and was not written
is read all the same: an `adapter_config.json` makes transformers load an adapter, whatever `config.json` says."""


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
    """Write what a folder holds, once all that a reader looks for lies there.

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
        "files": {name: _describe(folder / name) for name in _files_to_read(folder)},
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in weights.items()
        },
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return what a folder says about itself, None if it says nothing.

    Every file that loading reads is read once for its hash. One of settings is taken as it is where the manifest has
    null in place of its entry, and all of them are where it lists none, as those of older versions do.

    Raises:
        InputError: The manifest is no manifest, is of a later layout, a file is not as it says, or one that loading
            would read is not in it.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    content = read_json_object(path)
    if content.get("layout_version") != LAYOUT_VERSION:
        found = content.get("layout_version")
        raise InputError(f"{path}: expected layout_version {LAYOUT_VERSION}, found {found!r}; update llava_pl")
    for name, kind in FIELDS.items():
        if type(content.get(name)) is not kind:
            found = repr(content[name]) if name in content else "none"
            raise InputError(
                f"{path}: expected a field {name!r} ({kind.__name__}), found {found}; fetch the folder again"
            )
    if content["vocabulary"] < 1 or not all(isinstance(name, str) for name in content["trained"]):
        raise InputError(f"{path}: expected a vocabulary of words and names of trained tensors; fetch the folder again")
    _check_files(path, content["files"])
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
    for part, base in manifest["base_models"].items():
        is_known = isinstance(base, dict) and {"name"} <= base.keys() <= BASE_FIELDS.keys()
        if not is_known or not all(type(value) in BASE_FIELDS[name] for name, value in base.items()):
            raise InputError(
                f"{folder / MANIFEST_FILE}: field 'base_models.{part}': expected name (str), sha256 (str or null), "
                f"select_layer (int or null) and settings (hashes by file), found {base}; fetch the folder again"
            )
    bases = {part: BaseModel(**base) for part, base in manifest["base_models"].items()}
    return Origin(layout, bases, tuple(manifest["trained"]), data_hash=manifest.get("data_hash"))


def check_vocabulary(manifest: Mapping[str, Any] | None, folder: Path, *, least: int, most: int) -> None:
    """Check how many words a folder says that its model has.

    Args:
        manifest: What it says about itself, None if it says nothing.
        folder: Where it lies.
        least: The words that its tokenizer has.
        most: The rows that its tables have.

    Raises:
        InputError: There are fewer, or more.
    """
    if manifest is None or least <= manifest["vocabulary"] <= most:
        return
    expected = f"{most}, the rows of its tables"
    if least != most:
        expected = f"at least the {least} words of its tokenizer and at most the {most} rows of its tables"
    raise InputError(
        f"{folder / MANIFEST_FILE}: field 'vocabulary': expected {expected}, found {manifest['vocabulary']}; fetch the "
        "folder again"
    )


def check_trained(origin: Origin, names: Collection[str], folder: Path) -> None:
    """Check that what a folder calls trained are tensors of its model.

    Args:
        origin: What `origin_of` returned.
        names: Those of the model in memory, which trained ones are told by in every form.
        folder: Where the manifest lies.

    Raises:
        InputError: One is none.
    """
    if odd := [name for name in origin.trained if name not in names]:
        raise InputError(
            f"{folder / MANIFEST_FILE}: field 'trained': expected names of tensors of the model, found {odd[0]!r}; "
            "fetch the folder again"
        )


def settings_of(manifest: Mapping[str, Any] | None, folder: Path) -> DataSettings | None:
    """Return how text and pictures became samples, None where the folder has no manifest."""
    return (
        None if manifest is None else DataSettings.from_plain(manifest.get("data"), f"{folder / MANIFEST_FILE}: data")
    )


def _is_weights(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHT_FILES)


def _files_to_read(folder: Path) -> list[str]:
    """Return the files that loading may read, but for those in hidden folders, which no program looks into."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        name.as_posix()
        for name in names
        if not any(part.startswith(".") for part in name.parts)
        and any(fnmatch(name.name, pattern) for pattern in (*WEIGHT_FILES, *SETTING_FILES))
    ]


def _plain_base(base: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in asdict(base).items() if name != "path"}


def _check_files(path: Path, said: Mapping[str, object]) -> None:
    for name in said:
        # By its name alone: in the hub's cache the files of a folder are links to others.
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{path}: file {name!r} lies outside the folder; expected a name inside it")
    if not any(_is_weights(name) for name in said):
        raise InputError(f'{path}: expected the files of the weights under "files", found none; fetch the folder again')
    lists_settings = not all(_is_weights(name) for name in said)
    for name in _files_to_read(path.parent):
        if name not in said and (lists_settings or _is_weights(name)):
            raise InputError(f"{path}: file {name!r} is not in the manifest; remove it{_or_excuse(name)}")
    for name, file in said.items():
        if not (path.parent / name).is_file():
            raise InputError(f"{path}: file {name!r} is missing; fetch it again")
        if file is None and not _is_weights(name):
            continue
        if (found := _describe(path.parent / name)) != (expected := _check_entry(path, name, file)):
            raise InputError(
                f"{path}: file {name!r} is not the one that was written: expected {_tell(expected)}, found "
                f"{_tell(found)}; fetch it again{_or_excuse(name)}"
            )


def _check_entry(path: Path, name: str, file: object) -> Mapping[str, object]:
    if isinstance(file, dict) and {"bytes", "sha256"} <= file.keys():
        return file
    hint = ", which excuses settings but no weights" if file is None else ""
    raise InputError(
        f"{path}: file {name!r}: expected its bytes and sha256, found {json.dumps(file)}{hint}; fetch the folder again"
    )


def _or_excuse(name: str) -> str:
    """Return what else can be done about a file that is not as the manifest says; about weights nothing."""
    return "" if _is_weights(name) else f', or, if it is meant to be so, write "{name}": null under "files" there'


def _tell(file: Mapping[str, object]) -> str:
    return f"{file['bytes']} bytes (sha256 {str(file['sha256'])[:12]})"


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}
