"""Files to records, and through the loaders of ``data/conversation_datamodule.py`` to batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.entries import VAL_LABEL, RunSource
from llava_pl.data.mixture import SourceConfig
from llava_pl.data.question_dataset import ImageSource, QuestionDataset
from llava_pl.data.scienceqa import PromptFormat, evaluation_question, read_scienceqa, training_source
from llava_pl.data.sources import Source
from llava_pl.types import InputError, Sample


class LlavaDataModule(ConversationDataModule):
    """Conversations in LLaVA's format: caption pairs of stage `align`, instructions of stage `finetune`.

    A file is a JSON list, JSON lines (`.jsonl`), a parquet file or a folder of them, or a folder that Hugging Face's
    `datasets` saved. It is read once and kept in the cache.

    Args:
        records: File to train on, or a list of files: each a path, or a `path` with the `name` that it has in logs and
            how often an epoch `repeats` it.
        val_records: File whose loss is measured in validation.
        image_folder: Folder that the records' file names start from.
        **settings: As for `ConversationDataModule`.
    """

    def __init__(
        self,
        *,
        records: list[str | SourceConfig] | str | Path | None = None,
        val_records: str | Path | None = None,
        image_folder: str | Path,
        **settings: object,
    ) -> None:
        super().__init__(image_folder=image_folder, **settings)  # type: ignore[arg-type]
        self._records = records
        self._val_records = val_records

    def train_sources(self) -> list[RunSource]:
        """Return the files to train on."""
        if self._records is None:
            return []
        if self._records == "":
            raise InputError("data.records: expected a file, found an empty name; give a path, or null for none")
        sources: list[RunSource] = []
        for file in self._records if isinstance(self._records, list) else [str(self._records)]:
            config = SourceConfig(path=file) if isinstance(file, str) else file
            label = config.get("name") or Path(config["path"]).stem
            sources.append(RunSource(label, Source.of(config["path"]), config.get("repeats", 1.0)))
        return sources

    def val_sources(self) -> list[RunSource]:
        """Return the file to validate with."""
        return [] if self._val_records is None else [RunSource(VAL_LABEL, Source.of(self._val_records))]

    def setup(self, stage: str) -> None:
        """Read the files that a stage needs."""
        if stage in ("test", "predict"):
            raise InputError("data: conversations hold no questions to test or predict with; use ScienceQADataModule")
        if stage == "validate" and self._val_records is None:
            raise InputError("data.val_records: nothing to validate; give a file of records")
        if stage == "fit":
            self.open_train_data()
        if self._val_records is not None and not self.val_datasets:
            data = self.open_sources(self.val_sources())
            if not data.records:
                raise InputError(
                    f"data.val_records: {self._val_records}: no records to validate with; give a file of some"
                )
            self.val_datasets = [self.make_dataset(data)]


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

    def train_sources(self) -> list[RunSource]:
        """Return the training split; a malformed problem stops the run."""
        source = training_source(self._root, self._train_split, self._prompt_format)
        return [RunSource("scienceqa", source)]

    def setup(self, stage: str) -> None:
        """Read the problems that a stage needs."""
        if stage == "fit":
            self.open_train_data()
        if stage in ("fit", "validate"):
            self.val_datasets = [self._ask(self._val_split, source) for source in self.image_sources]

    def test_dataloader(self) -> list[DataLoader[Sample]]:
        """Return the loaders of `test`."""
        return [self._eval_loader(self._ask(self._test_split, source), "test") for source in self.image_sources]

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Return the loader of `predict`: the test questions with their own pictures."""
        return self._eval_loader(self._ask(self._test_split, "own"), "predict")

    def _ask(self, split: str, source: ImageSource) -> QuestionDataset:
        questions = [
            evaluation_question(problem, self._prompt_format, ask_letter=self._ask_letter)
            for problem in read_scienceqa(self._root, split).values()
        ]
        return QuestionDataset(questions, self.make_encoder(), source)
