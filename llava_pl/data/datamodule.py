"""Files to records, and through the loaders of ``data/asking_datamodule.py`` to batches."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import Dataset

from llava_pl.data.asking_datamodule import AskingDataModule
from llava_pl.data.entries import VAL_LABEL, RunSource
from llava_pl.data.mixture import SourceConfig
from llava_pl.data.sources import Source
from llava_pl.types import InputError, Sample


class LlavaDataModule(AskingDataModule):
    """Conversations in LLaVA's format: caption pairs of stage `align`, instructions of stage `finetune`.

    A file is a JSON list, JSON lines (`.jsonl`), a parquet file or a folder of them, or a folder that Hugging Face's
    `datasets` saved. It is read once and kept in the cache.

    Args:
        records: File to train on, or a list of files: each a path, or a `path` with the `name` that it has in logs and
            how often an epoch `repeats` it.
        val_records: File whose loss is measured in validation.
        image_folder: Folder that the records' file names start from.
        **settings: As for `AskingDataModule`.
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
        if stage in ("test", "predict") and not self.tasks:
            raise InputError("data.tasks: nothing to test or predict with; give tasks, or use ScienceQADataModule")
        if stage == "validate" and self._val_records is None and not self.tasks:
            raise InputError("data.val_records: nothing to validate; give a file of records, or data.tasks")
        if stage == "fit":
            self.open_train_data()
        if stage in ("fit", "validate") and not self.val_datasets:
            self.val_datasets = [*self._val_data(), *self.ask("val")]

    def _val_data(self) -> list[Dataset[Sample]]:
        if self._val_records is None:
            return []
        data = self.open_sources(self.val_sources())
        if not data.records:
            raise InputError(f"data.val_records: {self._val_records}: no records to validate with; give a file of some")
        return [self.make_dataset(data)]
