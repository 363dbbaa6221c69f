"""The run's log, ``metrics.csv``: a row is on disk when it is logged, and a resumed run goes on where it stopped.

In: what the trainer logs. Out: rows, each once.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from llava_pl.types import InputError


class MetricsLog(CSVLogger):
    """A CSV log that is continued, not deleted, when the file is there.

    Args:
        run_dir: Folder of the file.
        file_name: Its name.
    """

    def __init__(self, run_dir: str | Path, file_name: str = "metrics.csv") -> None:
        super().__init__(save_dir=run_dir, name="", version="")
        self._file_name = file_name

    @property
    def experiment(self) -> Any:  # noqa: ANN401  a dummy on other ranks than the first
        """The file."""
        if self._experiment is None:
            self._open()
        return super().experiment

    @rank_zero_only
    def _open(self) -> None:
        self._experiment = _MetricsFile(self.log_dir, self._file_name)

    @property
    def num_rows(self) -> int:
        """Rows written so far."""
        return self._file.num_rows if self._file else 0

    def cut(self, num_rows: int) -> None:
        """Drop the rows after the first ``num_rows``: the run that is resumed will write them again."""
        if self._file:
            self._file.cut(num_rows)

    def write_ahead(self, trainer: Trainer) -> None:
        """Write the row of the step or the epoch that ends, before the trainer does.

        Called on all ranks before a checkpoint is saved: the trainer logs after its last hook, and a kill between the
        two would lose the row, as the resumed run starts with the next step.
        """
        connector = trainer._logger_connector
        is_epoch_end = connector._first_loop_iter is None
        if not is_epoch_end and not connector.should_update_logs:
            return
        metrics = connector.metrics["log"]  # those of an epoch are added up over the ranks here
        if not self._file or not metrics:
            return
        numbers = {name: float(value) for name, value in metrics.items()}
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - is_epoch_end  # as the trainer counts there
        self.log_metrics({**numbers, "epoch": trainer.current_epoch}, step)
        self._file.ahead = (step, set(numbers))

    @property
    def _file(self) -> _MetricsFile | None:
        return self.experiment if isinstance(self.experiment, _MetricsFile) else None


class _MetricsFile(ExperimentWriter):
    """A file that rows are appended to; a new column rewrites it."""

    def __init__(self, log_dir: str, file_name: str) -> None:
        super().__init__(log_dir=log_dir)
        self._path = Path(log_dir) / file_name
        self.ahead: tuple[int, set[str]] | None = None
        self.num_rows = 0
        rows = self._read_or_set_aside()
        if self._path.exists():
            # Also drops a row that a kill has torn.
            self._rewrite(rows)

    def _check_log_dir_exists(self) -> None:
        """Leave the file alone, where Lightning deletes it."""

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Append a row, unless it was written ahead."""
        ahead, self.ahead = self.ahead, None
        if ahead == (step, set(metrics_dict) - {"epoch"}):
            return
        row = {**metrics_dict, "step": self.num_rows if step is None else step}
        if new := row.keys() - set(self.metrics_keys):
            rows = self._read()
            self.metrics_keys = sorted([*self.metrics_keys, *new])
            self._rewrite([*rows, row])
            return
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.metrics_keys).writerow(row)
        self.num_rows += 1

    def cut(self, num_rows: int) -> None:
        """Keep the first rows alone."""
        if self.num_rows > num_rows:
            self._rewrite(self._read()[:num_rows])

    def save(self) -> None:
        """Do nothing: every row is on disk."""

    def _read_or_set_aside(self) -> list[dict[str, Any]]:
        """Return the rows of an earlier start; a file that is no log gets another name, and the log begins anew.

        Raises:
            InputError: The file cannot be read.
        """
        try:
            return self._read()
        except (UnicodeDecodeError, csv.Error) as error:
            aside = free_name(self._path)
            self._path.rename(aside)
            rank_zero_warn(f"{self._path}: damaged ({error}); kept as {aside.name}, the log goes on in a new file")
            return []
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read ({error.strerror}); move it away, resume again") from error

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            keys = next(reader, [])
            rows = [row for row in reader if row]
        if rows and len(rows[-1]) < len(keys):
            del rows[-1]  # a kill has torn it
        if keys and "step" not in keys:
            raise csv.Error("expected the column 'step' in line 1, found none")
        for number, row in enumerate(rows, start=2):
            if len(row) != len(keys):
                raise csv.Error(f"expected {len(keys)} values in line {number}, found {len(row)}")
        self.metrics_keys = keys
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self._path)
        self.num_rows = len(rows)


def free_name(path: Path) -> Path:
    """Return ``metrics-1.csv`` for ``metrics.csv``, or the first higher number that is not taken."""
    number = 1
    while (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return free
