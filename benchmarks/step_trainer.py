"""A step of transformers' own loop as a round: what the ways that train with its `Trainer`, or one made of it, share.

Runs in each peer's environment, under transformers 4 and 5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from step_rounds import LEARNING_RATES, NUM_STEPS, StepRounds
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerCallback


class Steps(TrainerCallback):
    """Runs a step when it is asked for."""

    def __init__(self, rounds: StepRounds) -> None:
        self.rounds = rounds

    def on_step_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Wait."""
        self.rounds.begin()


def note_loss(base: Any, rounds: StepRounds) -> Any:  # noqa: ANN401  classes of trainers
    """Return a kind of trainer that takes samples in their order, and tells the loss of each step."""

    class Noted(base):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Sampler[int]:  # noqa: ANN401
            return SequentialSampler(self.train_dataset)

        def training_step(self, *arguments: Any, **options: Any) -> Tensor:  # noqa: ANN401
            rounds.loss = super().training_step(*arguments, **options)
            return rounds.loss

    return Noted


def make_settings(folder: Path, stage: str, num_samples: int, *, recomputed: bool) -> dict[str, Any]:
    """Return what every trainer is told."""
    return {
        "output_dir": str(folder / "trained"),
        "per_device_train_batch_size": num_samples,
        "learning_rate": LEARNING_RATES[stage],
        "max_steps": NUM_STEPS,
        "gradient_checkpointing": recomputed,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    }
