"""The merged configuration of a run: what may stand in the trainer's part, and the file that is kept.

In: what the command line and the files came to. Out: ``config.yaml``, which can be given to `--config` again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_warn

from llava_pl.run_folder import continued_run
from llava_pl.training.environment import describe_environment
from llava_pl.training.metrics_log import free_name
from llava_pl.training.rehearsal import FROZEN_DTYPES
from llava_pl.training.wandb_record import log_settings, wandb_loggers
from llava_pl.types import InputError

LEAST = {
    "seed_everything": 0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": 0,
    "save_every_n_steps": 1,
    "save_every_minutes": 0,
    "keep_checkpoints": 1,
}
"""Numbers that Lightning takes as they are, and the least that means something."""


def check_settings(config: Namespace) -> None:
    """Check settings that Lightning would take as they are, or understand in its own way.

    Raises:
        InputError: A number is too small, or precision or strategy is none that this project has.
    """
    for key, least in LEAST.items():
        value = config.get(key)
        if value is not None and value is not False and value < least:
            raise InputError(f"{key}: expected at least {least}, found {value:g}")
    strategy = config.get("trainer.strategy")
    name = str(strategy.get("class_path") if isinstance(strategy, Namespace) else strategy).rpartition(".")[2]
    if name.startswith(("fsdp", "FSDPStrategy")):
        raise InputError(
            f"trainer.strategy: found {name}, Lightning's FSDP1, which cannot clip gradients by their norm; choose "
            "configs/strategy/fsdp2.yaml, which divides the same"
        )
    precision = config.trainer.precision
    if str(precision).startswith("transformer-engine"):
        # Lightning would ask for that package, then put its layers in the place of each part's own.
        raise InputError(f"trainer.precision: expected one of {', '.join(FROZEN_DTYPES)}, found {precision}")


class SaveRunConfig(SaveConfigCallback):
    """Writes the merged configuration into the run's folder, where it can be given to `--config` again.

    A run that is continued, or evaluated in its own folder, keeps its file; other settings are written beside it.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``, or ``config-1.yaml`` and so on."""
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        environment = describe_environment()
        self._save_environment(path.parent, environment)
        if wandb_loggers(trainer):
            settings = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
            log_settings(trainer, {**settings, "environment": environment})
        config = self.config.clone()
        config.run_dir = None  # the next run from this file gets a folder of its own
        is_continued = config.ckpt_path and continued_run(config.ckpt_path, str(path.parent), is_last=False)
        if path.exists() and (stage != "fit" or is_continued):
            config.ckpt_path = None if stage == "fit" else config.ckpt_path
            given = _without_checkpoint(self.parser.dump(config, skip_unset=False))
            if any(_read(old) == given for old in sorted(path.parent.glob("config*.yaml"))):
                return
            path = free_name(path)
        self.parser.save(config, str(path), skip_unset=False, overwrite=True, multifile=False)

    @staticmethod
    def _save_environment(run_dir: Path, environment: dict[str, Any]) -> None:
        """Write ``environment.json``; a run that goes on with other versions has them beside it."""
        content = json.dumps(environment, indent=2) + "\n"
        if not any(old.read_text(encoding="utf-8") == content for old in run_dir.glob("environment*.json")):
            path = run_dir / "environment.json"
            (free_name(path) if path.exists() else path).write_text(content, encoding="utf-8")


def _without_checkpoint(config: str) -> list[str]:
    return [line for line in config.splitlines() if not line.startswith("ckpt_path:")]


def _read(path: Path) -> list[str]:
    """Return the settings in a file; none, said aloud, where it cannot be read."""
    try:
        return _without_checkpoint(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        rank_zero_warn(f"{path}: cannot be read ({reason}); it stays, the settings of this run are kept beside it")
        return []
