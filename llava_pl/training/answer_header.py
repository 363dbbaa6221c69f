"""What answers depend on: it stands at the head of an answer file, and tells whether two of them can be compared.

In: a run. Out: plain values, as JSON holds them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import blake2b
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
    described: dict[str, Any] = {"task": task.name, **task.settings(), "questions": _digest(task)}
    described["image_source"] = image_source
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
    """Return which weights answered: their files with size and time, and how the model is put together of them."""
    config = getattr(pl_module, "model_config", None)
    return {
        "checkpoint": _describe_path(trainer.ckpt_path),
        "init_from": _describe_path(getattr(pl_module, "init_from", None)),
        "config": None if config is None else asdict(config),
    }


def _digest(task: Task) -> str:
    """Return a hash of what a task asks: answers are kept by the place of their question."""
    asked = [(question.id, question.prompt, question.image) for question in task.questions()]
    return blake2b(json.dumps(asked).encode(), digest_size=8).hexdigest()


def _describe_path(path: str | Path | None) -> dict[str, Any] | None:
    """Return size and time of a file, or of all files in a folder; the name alone of what is on the hub."""
    if path is None:
        return None
    root = Path(path)
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    found = [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"path": str(path), "files": blake2b(json.dumps(found).encode(), digest_size=8).hexdigest()}
