"""Evaluation inside a run: answers to scores in the log and to files in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from llava_pl.data.question_dataset import ImageSource
from llava_pl.evaluation.parsing import Parser
from llava_pl.evaluation.questions import QuestionScores
from llava_pl.types import Batch


class ScoreQuestions(Callback):
    """Scores what the steps of a module answer: `LlavaModule` brings it along.

    A step returns one text per question of its batch, and None for a batch without questions; with the texts, it may
    return the scores that chose them.

    Args:
        parser: How letters are read off answers.
    """

    def __init__(self, parser: Parser) -> None:
        self.parser: Parser = parser
        self.scores = QuestionScores((), parser=parser)
        self.checkpoint_step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the step that the weights come from: outside of `fit` the trainer counts from zero."""
        self.checkpoint_step = checkpoint["global_step"]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._start(trainer.val_dataloaders, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._start(trainer.test_dataloaders, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start collecting."""
        self._start(trainer.predict_dataloaders, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401  Lightning's union of what a step may return
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the answers of a batch."""
        if "questions" in batch:
            places = batch.get("indices")
            self.scores.update(dataloader_idx, batch["questions"], places=places, **outputs)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores and write the answers."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores and write the answers."""
        self._finish(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the answers."""
        self._finish(trainer, pl_module, "predict")

    def _start(self, loaders: Any, pl_module: LightningModule) -> None:  # noqa: ANN401  Lightning's collections
        loaders = loaders if isinstance(loaders, Sequence) else [loaders]
        sources: list[ImageSource] = [getattr(loader.dataset, "image_source", "own") for loader in loaders]
        self.scores = QuestionScores(sources, parser=self.parser).to(pl_module.device)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        step = trainer.global_step if trainer.state.fn == "fit" else self.checkpoint_step
        metrics = self.scores.finish(Path(trainer.default_root_dir) / "predictions", name=f"{stage}-step{step}")
        if stage != "predict" and metrics:
            metrics["checkpoint_step"] = torch.tensor(float(step))
            pl_module.log_dict({f"{stage}/scienceqa/{name}": value for name, value in metrics.items()})
