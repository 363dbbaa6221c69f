"""Files to records, and through the loaders of ``data/conversation_datamodule.py`` to batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.dataset import ImageSource, QuestionDataset, RecordDataset
from llava_pl.data.quarantine import leave_out
from llava_pl.data.records import parse_records, read_records
from llava_pl.data.scienceqa import PromptFormat, evaluation_question, read_scienceqa, training_record
from llava_pl.types import BadRecord, InputError, Record, Sample


class LlavaDataModule(ConversationDataModule):
    """Conversations in LLaVA's JSON format: caption pairs of stage `align`, instructions of stage `finetune`.

    Args:
        records: JSON file to train on.
        val_records: JSON file whose loss is measured in validation.
        image_folder: Folder that the records' file names start from.
        **settings: As for `ConversationDataModule`.
    """

    def __init__(
        self,
        *,
        records: str | Path | None = None,
        val_records: str | Path | None = None,
        image_folder: str | Path,
        **settings: object,
    ) -> None:
        super().__init__(image_folder=image_folder, **settings)  # type: ignore[arg-type]
        self._records = records
        self._val_records = val_records

    def parse_train_records(self) -> list[Record | BadRecord]:
        """Return every record of the training file, or what is wrong with it."""
        return [] if self._records is None else parse_records(self._records)

    def setup(self, stage: str) -> None:
        """Read the files that a stage needs."""
        if stage in ("test", "predict"):
            raise InputError("data: conversations hold no questions to test or predict with; use ScienceQADataModule")
        if stage == "validate" and self._val_records is None:
            raise InputError("data.val_records: nothing to validate; give a JSON file of records")
        if stage == "fit" and self._records is not None:
            self.train_records = leave_out(self.parse_train_records(), self._quarantine, rank_zero_info)
        if self._val_records is not None:
            self.val_datasets = [RecordDataset(read_records(self._val_records), self.make_encoder())]


class ScienceQADataModule(ConversationDataModule):
    """ScienceQA in its official layout: `fit` learns from its problems, `validate` and `test` answer them.

    Args:
        root: Folder with `problems.json`, `pid_splits.json` and `images/`.
        prompt_format: Order of question, context, options, lecture, explanation and answer.
        train_split: Key of `pid_splits.json` to train on.
        val_split: Key of `pid_splits.json` that `validate` answers.
        test_split: Key of `pid_splits.json` that `test` and `predict` answer.
        image_sources: Pictures to validate with; beside "own", the blindness test's "other", "grey" and "none".
        ask_letter: Ask for the option's letter alone, as LLaVA-1.5's evaluation does.
        **settings: As for `ConversationDataModule`.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        prompt_format: PromptFormat = "QCM-LEA",
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        image_sources: Sequence[ImageSource] = ("own",),
        ask_letter: bool = False,
        **settings: object,
    ) -> None:
        super().__init__(image_folder=root, **settings)  # type: ignore[arg-type]
        self.image_sources = tuple(image_sources)
        self._root = Path(root)
        self._prompt_format: PromptFormat = prompt_format
        self._train_split = train_split
        self._val_split = val_split
        self._test_split = test_split
        self._ask_letter = ask_letter

    def parse_train_records(self) -> list[Record | BadRecord]:
        """Return the records of the training split; a malformed problem stops the run."""
        problems = read_scienceqa(self._root, self._train_split).values()
        return [training_record(problem, self._prompt_format) for problem in problems]

    def setup(self, stage: str) -> None:
        """Read the problems that a stage needs."""
        if stage == "fit":
            self.train_records = leave_out(self.parse_train_records(), self._quarantine, rank_zero_info)
        if stage in ("fit", "validate"):
            self.val_datasets = [self._ask(self._val_split, source) for source in self.image_sources]

    def test_dataloader(self) -> list[DataLoader[Sample]]:
        """Return the loaders of `test`."""
        return [self._eval_loader(self._ask(self._test_split, source)) for source in self.image_sources]

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Return the loader of `predict`: the test questions with their own pictures."""
        return self._eval_loader(self._ask(self._test_split, "own"))

    def _ask(self, split: str, source: ImageSource) -> QuestionDataset:
        questions = [
            evaluation_question(problem, self._prompt_format, ask_letter=self._ask_letter)
            for problem in read_scienceqa(self._root, split).values()
        ]
        return QuestionDataset(questions, self.make_encoder(), source)
