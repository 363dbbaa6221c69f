"""Questions beside records: what the data modules of this package share.

In: the tasks of a run. Out: loaders of their questions, for `validate`, `test` and `predict`, and while a run trains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from torch.utils.data import DataLoader, Dataset

from llava_pl.data.conversation_datamodule import ConversationDataModule, Stage
from llava_pl.data.question_dataset import ImageSource, QuestionDataset
from llava_pl.data.question_source import QuestionSource
from llava_pl.types import InputError, Sample


class AskingDataModule(ConversationDataModule):
    """Records to learn from, and tasks to answer.

    Args:
        tasks: Benchmarks whose questions `validate`, `test` and `predict` answer, and the validation of `fit`.
        image_sources: Pictures to ask with; beside "own", the blindness test's "other", "grey" and "none".
        report_examples: Answers that a report shows with their pictures, right and wrong ones.
        **settings: As for `ConversationDataModule`.
    """

    def __init__(
        self,
        *,
        tasks: list[QuestionSource] | None = None,
        image_sources: Sequence[ImageSource] = ("own",),
        report_examples: int = 24,
        **settings: object,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.tasks: Sequence[QuestionSource] = tasks or ()
        self.image_sources = tuple(image_sources)
        self.report_examples = report_examples
        # Set by who keeps the answers: returns the places of those that an evaluation which was stopped has left.
        self.find_answered: Callable[[QuestionDataset], Collection[int]] | None = None

    def tasks_of(self, stage: Stage) -> Sequence[QuestionSource]:
        """Return what a stage asks."""
        del stage
        return self.tasks

    def ask(self, stage: Stage) -> list[QuestionDataset]:
        """Return the questions of a stage with each kind of picture; `predict` shows their own alone.

        Raises:
            InputError: Two tasks have one name, and so would have one file of answers, or a name is none for files.
        """
        tasks = self.tasks_of(stage)
        names = [task.name for task in tasks]
        for name in names:
            if not re.fullmatch(r"[a-z0-9-]+", name):
                raise InputError(
                    f"data.tasks: expected a name of small letters, digits and dashes, found {name!r}; it is a part of "
                    "file names"
                )
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(
                f"data.tasks: expected one of each name, found {twice} twice; ask them in runs of their own"
            )
        sources: Sequence[ImageSource] = ("own",) if stage == "predict" else self.image_sources
        encoder = self.make_encoder()
        return [QuestionDataset(task, encoder, source) for task in tasks for source in sources]

    def _eval_loader(
        self, dataset: Dataset[Sample], stage: Stage = "val", done: Collection[int] = ()
    ) -> DataLoader[Sample]:
        if isinstance(dataset, QuestionDataset) and self.find_answered is not None:
            done = self.find_answered(dataset)
        return super()._eval_loader(dataset, stage, done)

    def test_dataloader(self) -> list[DataLoader[Sample]]:
        """Return the loaders of `test`."""
        return [self._eval_loader(dataset, "test") for dataset in self.ask("test")]

    def predict_dataloader(self) -> list[DataLoader[Sample]]:
        """Return the loaders of `predict`: the test questions with their own pictures."""
        return [self._eval_loader(dataset, "predict") for dataset in self.ask("predict")]
