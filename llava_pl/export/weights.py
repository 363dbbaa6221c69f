"""Weight files to named tensors and back, without ever running what a file brings along.

In: a folder or file in safetensors or torch format, whole or in shards. Out: a dictionary of tensors on the CPU, or
safetensors files.
"""

from __future__ import annotations

import json
import pickle
import re
import time
from collections.abc import Collection, Mapping
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from huggingface_hub import hf_hub_download, split_torch_state_dict_into_shards, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llava_pl.data.json_files import read_json
from llava_pl.export.numpy_values import numpy_is_taken, settle
from llava_pl.progress import show_progress
from llava_pl.types import InputError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

MAX_SHARD_BYTES = 5_000_000_000


def read_weights(path: str | Path, *, prefix: str = "", is_mapped: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a weights file or of the weights files in a folder.

    Args:
        path: The file or folder.
        prefix: How the names begin of those that are wanted; of safetensors files no more is read.
        is_mapped: As `read_torch_file`; those of safetensors always are.

    Raises:
        InputError: Nothing to read, a shard is missing or lies outside the folder, or a file is broken or holds
            objects other than tensors.
    """
    path = Path(path)
    if path.is_file():
        return _read_file(path, prefix, is_mapped)
    files, names = _find_weights(path)
    weights: dict[str, Tensor] = {}
    for file in show_progress(files, f"reading {path.name}"):
        weights |= _read_file(file, prefix, is_mapped)
    if missing := sorted(name for name in names if name.startswith(prefix) and name not in weights):
        raise InputError(f"{path}: {len(missing)} tensors of its index are in no shard, such as {missing[0]!r}")
    return weights


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a model, in the order in which they are read.

    Raises:
        InputError: There are none, or an index names one that is missing or lies outside the folder.
    """
    return _find_weights(folder)[0]


def has_weights(folder: Path) -> bool:
    """Whether a folder holds the weights of a whole model."""
    return any((folder / name).is_file() for name in WEIGHT_FILES)


def fetch_weights(path: str | Path) -> Path:
    """Return the folder with the weights files of a folder or hub name, all of which are then on this machine.

    Raises:
        InputError: The hub has none.
    """
    if Path(path).is_dir():
        return Path(path)
    for name in WEIGHT_FILES:
        try:
            found = Path(hf_hub_download(str(path), name))
            for shard in sorted(set(_read_weight_map(found).values())) if found.suffix == ".json" else ():
                hf_hub_download(str(path), shard)
        except EntryNotFoundError:
            continue
        return found.parent
    raise InputError(f"{path}: no weights found; expected a model with {', '.join(WEIGHT_FILES)}")


def read_torch_file(path: Path, *, unsafe: bool = False, is_mapped: bool = False) -> Any:  # noqa: ANN401  nested containers of plain values
    """Return the content of a torch file, read with ``weights_only=True``: tensors, plain and NumPy's values.

    Args:
        path: The file.
        unsafe: Let the file run what code it wants; only ever because the user has said so.
        is_mapped: Map tensors into memory where the file allows that: what is never looked at is never read, and the
            rest takes memory in the system's file cache alone. For files that nobody writes to while they are used.

    Raises:
        InputError: The file is broken, or wants to run code.
    """
    try:
        is_mapped = is_mapped and is_zipfile(path)
        if unsafe:
            return torch.load(path, map_location="cpu", weights_only=False, mmap=is_mapped)
        with numpy_is_taken():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
        return settle(content)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except pickle.UnpicklingError as error:
        is_code = re.search("unsupported (global|class)|not an allowed", str(error), re.IGNORECASE)
        found = "it holds objects that run code" if is_code else "it is something else"
        hint = "; have its maker save plain values alone" if is_code else "; fetch it again"
        raise InputError(f"{path}: refused: expected a torch file of plain tensors, but {found}{hint}") from error
    except Exception as error:  # on damaged files torch raises anything from EOFError to struct.error
        found = " ".join(f"{type(error).__name__}: {error}".split()).partition(". ")[0][:160].rstrip(": ")
        raise InputError(f"{path}: cannot be read as a torch file ({found}); fetch it again") from error


def write_weights(weights: Mapping[str, Tensor], folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write tensors as `model.safetensors`, or as shards with an index where one file would be too large.

    Raises:
        InputError: A tensor is empty or not finite.
    """
    check_weights(weights, folder)
    shards = split_torch_state_dict_into_shards(dict(weights), max_shard_size=max_shard_bytes)
    for name, members in show_progress(shards.filename_to_tensors.items(), f"writing {folder.name}"):
        save_file({member: weights[member].contiguous() for member in members}, folder / name, {"format": "pt"})
        # safetensors lets the owner alone read it, whatever the umask.
        (folder / name).chmod(folder.stat().st_mode & 0o666)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def check_weights(weights: Mapping[str, Tensor], where: str | Path) -> None:
    """Check that every tensor holds numbers, and nothing but numbers.

    Raises:
        InputError: A tensor is empty, as a sharded run that was not gathered leaves them, or holds NaN or infinity.
    """
    for name, tensor in weights.items():
        if tensor.numel() == 0:
            raise InputError(f"{where}: tensor {name!r} is empty, shape {tuple(tensor.shape)}; save the weights again")
        # The ends show every NaN and infinity, in a tenth of the time of a mask and without its memory.
        if tensor.is_floating_point() and not bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all()):
            raise InputError(f"{where}: tensor {name!r} holds NaN or infinity; such a model gives no answers")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, which is read once in the life of a process unless it changes."""
    status = path.stat()
    is_settled = time.time() - status.st_mtime > 2  # otherwise it may change again within a tick of its clock
    read = _hash_settled if is_settled else _hash
    return read(path.resolve(), status.st_size, status.st_mtime_ns)


def _hash(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, sha256).hexdigest()


_hash_settled = lru_cache(maxsize=None)(_hash)


def hash_weights(path: str | Path) -> str | None:
    """Return one hash of the weights files that loading a model reads, None if there are none on this machine.

    Args:
        path: Its folder, or its hub name, which stands for what the hub's cache has of it.

    Raises:
        InputError: An index is broken, a shard is missing, or a file is cut short.
    """
    folder = find_folder(path)
    if not has_weights(folder):
        return None
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            _open_safetensors(file)
    return sha256("".join(f"{file.name} {hash_file(file)}\n" for file in weight_files(folder)).encode()).hexdigest()


def find_folder(path: str | Path) -> Path:
    """Return where the files of a model are: its folder, or that of a hub name in the hub's cache if it is there."""
    return Path(path) if Path(path).exists() else _find_snapshot(str(path)) or Path(path)


def _find_snapshot(name: str) -> Path | None:
    """Return the folder that the hub's cache has for a model, None if it has none."""
    for file in WEIGHT_FILES:
        try:
            found = try_to_load_from_cache(name, file)
        except HFValidationError:  # a folder that is not there
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def _open_safetensors(path: Path) -> Any:  # noqa: ANN401  safetensors tells no type
    """Return a file whose header fits its length.

    Raises:
        InputError: It does not.
    """
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: broken safetensors file ({error}); fetch it again") from error


def _read_file(path: Path, prefix: str, is_mapped: bool) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    content = read_torch_file(path, is_mapped=is_mapped)
    is_named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not is_named or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: expected a dictionary of tensors, found {type(content).__name__} of other things")
    return {name: tensor for name, tensor in content.items() if name.startswith(prefix)}


def _read_weight_map(index: Path) -> dict[str, str]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError(f"{index}: expected a field 'weight_map' from tensor names to shard files, found none")
    return weight_map


def _find_weights(folder: Path) -> tuple[list[Path], Collection[str]]:
    """Return the weights files of a folder, and the names of the tensors that an index promises."""
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        expected = ", ".join(WEIGHT_FILES)
        raise InputError(f"{folder}: no weights found; expected a weights file or a folder with {expected}")
    if found.suffix != ".json":
        return [found], ()
    weight_map = _read_weight_map(found)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard:
            raise InputError(f"{found}: shard {shard!r} lies outside the folder; expected a plain file name")
        if not (folder / shard).is_file():
            raise InputError(f"{found}: shard {shard!r} is missing; fetch it again")
    return [folder / shard for shard in shards], weight_map.keys()
