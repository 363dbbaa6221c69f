"""ScienceQA from its official files to batches: problems to learn from, and questions to answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_pl.data.asking_datamodule import AskingDataModule
from llava_pl.data.conversation_datamodule import Stage
from llava_pl.data.entries import RunSource
from llava_pl.data.question_source import QuestionSource
from llava_pl.data.scienceqa import check_prompt_format, training_source
from llava_pl.evaluation.parsing import Parser
from llava_pl.evaluation.scienceqa import ScienceQA


class ScienceQADataModule(AskingDataModule):
    """ScienceQA in its official layout: `fit` learns from its problems, `validate` and `test` answer them.

    Args:
        root: Folder with `problems.json`, `pid_splits.json` and `images/`.
        prompt_format: Order of question, context, options, and of lecture, explanation and answer: QCM-LEA, or as the
            original's converter has it.
        train_split: Key of `pid_splits.json` to train on.
        val_split: Key of `pid_splits.json` that `validate` answers.
        test_split: Key of `pid_splits.json` that `test` and `predict` answer.
        ask_letter: Ask for the option's letter alone, as LLaVA-1.5's evaluation does.
        parser: How letters are read off answers, as for `ScienceQA`.
        **settings: As for `AskingDataModule`; `tasks` are asked beside it.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        prompt_format: str = "QCM-LEA",
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        ask_letter: bool = False,
        parser: Parser = "llava",
        **settings: object,
    ) -> None:
        check_prompt_format(prompt_format)
        super().__init__(image_folder=root, **settings)  # type: ignore[arg-type]
        self._root = Path(root)
        self._prompt_format = prompt_format
        self._train_split, self._val_split, self._test_split = train_split, val_split, test_split
        self._ask_letter = ask_letter
        self._parser: Parser = parser

    def train_sources(self) -> list[RunSource]:
        """Return the training split; a malformed problem stops the run."""
        source = training_source(self._root, self._train_split, self._prompt_format)
        return [RunSource("scienceqa", source)]

    def setup(self, stage: str) -> None:
        """Read the problems that a stage needs."""
        if stage == "fit":
            self.open_train_data()
        if stage in ("fit", "validate"):
            self.val_datasets = list(self.ask("val"))

    def tasks_of(self, stage: Stage) -> Sequence[QuestionSource]:
        """Return the questions of a split, and what is asked beside them."""
        own = ScienceQA(
            root=self._root,
            split=self._val_split if stage == "val" else self._test_split,
            prompt_format=self._prompt_format,
            ask_letter=self._ask_letter,
            parser=self._parser,
        )
        return [own, *self.tasks]
