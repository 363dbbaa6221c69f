"""Evaluation inside a run: answers to scores in the log, and to answer files and reports in the run's folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from llava_pl.data.question_dataset import ImageSource, QuestionDataset
from llava_pl.evaluation.answers import write_answers
from llava_pl.evaluation.scores import scored_rows
from llava_pl.evaluation.task import Task
from llava_pl.evaluation.task_score import TaskScore
from llava_pl.training.answer_header import describe_answers, describe_model
from llava_pl.training.answers_so_far import Answer, AnswersSoFar
from llava_pl.training.eval_report import SetOfAnswers, write_reports
from llava_pl.types import Batch, InputError

STAGES = {"validate": "val", "test": "test", "predict": "predict"}


@dataclass
class Asking:
    """Questions that are being asked with one kind of picture.

    Args:
        task: What is asked.
        image_source: Which picture it is asked with.
        score: The answers of this rank.
        so_far: Where they are kept until all have come; None in validation during training.
        found: Answers that an earlier attempt has left there.
    """

    task: Task
    image_source: ImageSource
    score: TaskScore
    so_far: AnswersSoFar | None = None
    found: dict[int, Answer] = field(default_factory=dict)

    @property
    def ending(self) -> str:
        """What the names of its files end with."""
        return "" if self.image_source == "own" else f"-{self.image_source}-image"


class ScoreQuestions(Callback):
    """Scores what the steps of a module answer: `LlavaModule` brings it along.

    A step returns one text per question of its batch, and None for a batch without questions; with the texts, it may
    return the scores that chose them. Answers are kept as they come: `validate`, `test` and `predict` that were stopped
    go on with them in the same folder of the run.
    """

    def __init__(self) -> None:
        self.checkpoint_step = 0
        self._asking: dict[int, Asking] = {}  # by the identity of the dataset
        self._of_loader: list[Asking | None] = []  # None for a loader of records

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the step that the weights come from: outside of `fit` the trainer counts from zero."""
        self.checkpoint_step = checkpoint["global_step"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have questions left out that were answered before."""
        if stage in STAGES and hasattr(trainer.datamodule, "find_answered"):  # type: ignore[attr-defined]
            find = partial(self._find_answered, trainer, pl_module, STAGES[stage])
            trainer.datamodule.find_answered = find  # type: ignore[attr-defined]

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
        """Count the answers of a batch, and keep them."""
        asking = self._of_loader[dataloader_idx]
        if asking is None:
            return
        places, texts = batch["indices"], outputs["texts"]
        asking.score.update(places, texts, outputs.get("scores"))
        if asking.so_far is not None:
            chosen_by = outputs.get("scores") or [None] * len(texts)
            asking.so_far.add(dict(zip(places, zip(texts, chosen_by, strict=True), strict=True)))

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores, write answers and reports."""
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores, write answers and reports."""
        self._finish(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the answers."""
        self._finish(trainer, pl_module, "predict")

    def _find_answered(
        self, trainer: Trainer, pl_module: LightningModule, stage: str, dataset: QuestionDataset
    ) -> Collection[int]:
        """Return the places of questions that were answered by an evaluation in this folder which did not end."""
        asking = self._asking[id(dataset)] = _begin(dataset, pl_module)
        made_with = {
            "answers": describe_answers(trainer, pl_module, asking.task, asking.image_source),
            "model": describe_model(trainer, pl_module),
        }
        name = f"{asking.task.name}-{stage}-step{self.checkpoint_step}{asking.ending}"
        asking.so_far = AnswersSoFar(_predictions(trainer), name, made_with, trainer.global_rank)
        found = [asking.so_far.read()]
        if trainer.world_size > 1:  # nodes may have folders of their own, and all must leave out the same
            found *= trainer.world_size
            torch.distributed.all_gather_object(found, found[0])
        asking.found = {place: answer for of_rank in found for place, answer in of_rank.items()}
        if trainer.is_global_zero:
            asking.so_far.begin(asking.found)
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            asking.so_far.begin({})
        return asking.found.keys()

    def _start(self, loaders: Any, pl_module: LightningModule) -> None:  # noqa: ANN401  Lightning's collections
        datasets = [loader.dataset for loader in (loaders if isinstance(loaders, Sequence) else [loaders])]
        datasets = [getattr(dataset, "dataset", dataset) for dataset in datasets]  # which the loader went on behind
        self._of_loader = []
        for dataset in datasets:
            asking = None
            if isinstance(dataset, QuestionDataset):
                asking = self._asking.pop(id(dataset), None) or _begin(dataset, pl_module)
                texts = [text for text, _ in asking.found.values()]
                scores = [scores for _, scores in asking.found.values()]
                asking.score.update(list(asking.found), texts, scores)
            self._of_loader.append(asking)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.sanity_checking:
            return
        step = trainer.global_step if trainer.state.fn == "fit" else self.checkpoint_step
        sets = []
        for asking in filter(None, self._of_loader):
            with asking.score.sync_context():
                asked = asking.score.asked()
            if not asked:
                continue
            name = f"{asking.task.name}-{stage}-step{step}{asking.ending}"
            scores = asking.task.score(asked)
            if trainer.is_global_zero:
                header = {
                    "model": describe_model(trainer, pl_module) | {"step": step},
                    "answers": describe_answers(trainer, pl_module, asking.task, asking.image_source),
                }
                scored = asked if stage == "predict" else scored_rows(asked, scores)
                rows = [asking.task.as_written(question, row) for question, row in scored]
                write_answers(_predictions(trainer) / f"{name}.jsonl", rows, header)
                if asking.so_far is not None:
                    asking.so_far.end()
            if stage == "predict":
                continue
            sets.append(SetOfAnswers(asking.task, asking.image_source, asked, scores))
            prefix = "" if asking.image_source == "own" else f"{asking.image_source}_image/"
            metrics = {f"{prefix}{key}": value for key, value in scores.metrics().items()}
            metrics["checkpoint_step"] = float(step)
            values = {key: torch.tensor(float(value), device=pl_module.device) for key, value in metrics.items()}
            pl_module.log_dict({f"{stage}/{asking.task.name}/{key}": value for key, value in values.items()})
        if sets and trainer.is_global_zero:
            write_reports(trainer, sets, name=f"{stage}-step{step}")


def _begin(dataset: QuestionDataset, pl_module: LightningModule) -> Asking:
    """Return what a dataset asks, nothing answered yet.

    Raises:
        InputError: Nothing says what the answers are worth.
    """
    if not isinstance(dataset.source, Task):
        kind = type(dataset.source).__name__
        raise InputError(f"data.tasks: {kind}: expected a llava_pl.evaluation.task.Task, which scores answers")
    return Asking(dataset.source, dataset.image_source, TaskScore(dataset.source).to(pl_module.device))


def _predictions(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "predictions"
