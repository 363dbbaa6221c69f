"""A path to a model that can be asked, whatever the form that it has on disk: its files decide, never its name."""

from __future__ import annotations

from pathlib import Path

import torch

from llava_pl.export.artifact import is_artifact, read_artifact
from llava_pl.export.hf import is_hf, read_hf
from llava_pl.export.lora_folder import is_lora, read_lora
from llava_pl.export.manifest import read_manifest
from llava_pl.export.original import is_original
from llava_pl.export.original_folder import is_projector, read_original
from llava_pl.export.pretrained import Pretrained
from llava_pl.export.run_checkpoint import read_checkpoint
from llava_pl.export.shards import is_sharded, shard_path
from llava_pl.types import InputError


def load_pretrained(
    path: str | Path,
    *,
    vision_encoder: str | Path | None = None,
    base: str | Path | None = None,
    dtype: torch.dtype | None = torch.float32,
    traces: bool = False,
    unsafe: bool = False,
) -> Pretrained:
    """Return the model in a folder or file.

    Args:
        path: A folder that `llava-pl import` or `llava-pl export` wrote, one of llava-hf, one in the original LLaVA's
            layout, a checkpoint of a run, or the folder of a run, which stands for its last checkpoint.
        vision_encoder: The encoder's folder or hub name, for folders in the original's layout that name one which is
            elsewhere, and for checkpoints whose encoder has moved.
        base: The language model of a folder that holds a projector or a LoRA alone, or of a checkpoint, if it has
            moved.
        dtype: Of the weights; as on disk when None.
        traces: Also find out what a copy's manifest and certificate tell: hashes of the bases, and the base's answers.
        unsafe: Read a checkpoint that holds pickled objects, or import the class that a folder names as its projector:
            either can run any code.

    Raises:
        InputError: It is no LLaVA model, or a part is missing or does not fit.
    """
    path = find_last(Path(path)).resolve()  # "." has no name to look beside
    if path.is_file() or is_sharded(path) or shard_path(path, 0).is_file():
        return read_checkpoint(
            path, base=base, vision_encoder=vision_encoder, dtype=dtype, traces=traces, unsafe=unsafe
        )
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected one with config.json of a LLaVA model")
    if is_artifact(path):
        return read_artifact(path, dtype=dtype, unsafe=unsafe)
    if is_hf(path):
        return read_hf(path, dtype=dtype)
    if is_lora(path):
        return read_lora(path, base=base, vision_encoder=vision_encoder, dtype=dtype, traces=traces, unsafe=unsafe)
    if is_original(path):
        return read_original(path, vision_encoder=vision_encoder, base=base, dtype=dtype, traces=traces, unsafe=unsafe)
    read_manifest(path)  # which names the file that is missing, perhaps
    raise InputError(
        f"{path}: expected a model folder of llava_pl, llava-hf or the original LLaVA (whose config.json has "
        "mm_vision_tower), found none of them"
    )


def find_last(path: Path) -> Path:
    """Return the last checkpoint of the run whose folder is at a path, or else the path itself."""
    last = path / "checkpoints" / "last.ckpt"
    return last if last.exists() else path


def needs_base(path: Path) -> bool:
    """Whether what is at a path is no model without the language model that it belongs to."""
    path = find_last(path)
    return (
        path.is_file()
        or is_sharded(path)
        or (path.is_dir() and (is_lora(path) or (is_original(path) and is_projector(path))))
    )
