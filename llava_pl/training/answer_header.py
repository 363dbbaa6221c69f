"""What answers depend on: it stands at the head of an answer file, and tells whether two of them can be compared.

In: a run. Out: plain values, as JSON holds them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from llava_pl import __version__
from llava_pl.data.question_dataset import ImageSource
from llava_pl.evaluation.task import Task


def describe_answers(
    trainer: Trainer, pl_module: LightningModule, task: Task, image_source: ImageSource
) -> dict[str, Any]:
    """Return how questions were asked and answered: task, prompt, template, picture, decoding, precision."""
    described: dict[str, Any] = {"task": task.name, **task.settings(), "image_source": image_source}
    if (encoder := getattr(trainer.datamodule, "encoder", None)) is not None:  # type: ignore[attr-defined]
        described |= {
            "template": encoder.template,
            "image_aspect": "anyres" if encoder.tiling else encoder.image_transform.aspect,
            "image_size": encoder.image_transform.image_size,
            "image_start_end": encoder.image_start_end,
            "respect_exif": encoder.respect_exif,
        }
    if (generation := getattr(pl_module, "generation", None)) is not None:
        described |= {"method": generation.method, "max_new_tokens": generation.max_new_tokens}
    return described | {"precision": str(trainer.precision), "llava_pl": __version__}


def describe_model(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return which weights answered: files with their size and time, None for what no file gives."""
    return {
        "checkpoint": _describe_file(trainer.ckpt_path),
        "init_from": _describe_file(getattr(pl_module, "init_from", None)),
    }


def _describe_file(path: str | Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = Path(path).stat()
    except OSError:  # a name on the hub
        return {"path": str(path)}
    return {"path": str(path), "bytes": found.st_size, "modified_ns": found.st_mtime_ns}
