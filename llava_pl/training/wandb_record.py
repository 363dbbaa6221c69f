"""What Weights & Biases is told of a run beside its numbers: all settings, the data, where its checkpoint lies.

In: the run's loggers. Out: its configuration there, and an artifact that refers to the file, which stays where it is.
Nothing happens without a logger of W&B, and nothing is imported for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import WandbLogger


def log_settings(trainer: Trainer, settings: Mapping[str, Any]) -> None:
    """Add settings to the run's configuration; those of an earlier start are replaced.

    Args:
        trainer: Of the run; on its first rank.
        settings: As JSON holds them, by group.
    """
    for logger in wandb_loggers(trainer):
        logger.experiment.config.update(dict(settings), allow_val_change=True)


def log_data(trainer: Trainer) -> None:
    """Add the hash of the training data, and a line about each of its sources; on the first rank."""
    data = getattr(getattr(trainer, "datamodule", None), "train_data", None)
    content = getattr(data, "content", None)
    if content is not None:
        assert data is not None
        log_settings(trainer, {"data_content": content, "data_sources": list(data.describe())})


def log_checkpoint(trainer: Trainer, path: Path) -> None:
    """Log a checkpoint as an artifact that refers to its file: nothing is uploaded, and nothing read.

    Args:
        trainer: Of the run; on its first rank.
        path: The checkpoint, or a link to it.
    """
    loggers = wandb_loggers(trainer)
    if not loggers or not path.exists():
        return
    import wandb

    target = path.resolve()
    about = target.with_name(f"{target.name}.json")
    try:
        checksum = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        checksum = None
    for logger in loggers:
        run = logger.experiment
        metadata = {"step": trainer.global_step, "path": str(target), "checksum": checksum}
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=metadata)
        artifact.add_reference(target.as_uri(), name=target.name, checksum=False)
        run.log_artifact(artifact, aliases=["last", f"step-{trainer.global_step}"])


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the loggers of W&B that a run has."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
