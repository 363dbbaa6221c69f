"""What a run says about itself: the trainable plan at its start, its speed on the way."""

from __future__ import annotations

import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from llava_pl.training.schedule import is_step_complete
from llava_pl.training.stages import summarize_parts
from llava_pl.types import Batch


class PlanTable(Callback):
    """Shows at the start of training what is trained: part, trainable and all parameters, dtype, learning rate."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, on the first rank."""
        if not trainer.is_global_zero:
            return
        config: Any = pl_module.optim_config
        table = Table(title=f"stage {pl_module.stage}")
        table.add_column("part")
        for column in ("trainable", "total", "dtype", "learning rate"):
            table.add_column(column, justify="right")
        for row in summarize_parts(pl_module.model):  # type: ignore[arg-type]
            rate = f"{config.of(row.part)[0]:g}" if row.num_trainable else "frozen"
            table.add_row(row.part, f"{row.num_trainable:,}", f"{row.num_parameters:,}", row.dtypes, rate)
        Console().print(table)


class ScoreTable(Callback):
    """Shows what `validate` and `test` measured: a row for each group of questions, a column for each image source."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of `validate`; during `fit` the log has the numbers."""
        if trainer.state.fn == "validate":
            self._print(trainer, "val/scienceqa/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of `test`."""
        self._print(trainer, "test/scienceqa/")

    def _print(self, trainer: Trainer, prefix: str) -> None:
        metrics = {key.removeprefix(prefix): value for key, value in trainer.callback_metrics.items()}
        scores = {key: float(value) for key, value in metrics.items() if "accuracy" in key}
        if not trainer.is_global_zero:
            return
        if "val/loss" in trainer.callback_metrics:
            Console().print(f"val/loss {float(trainer.callback_metrics['val/loss']):.4f} per supervised token")
        if not scores:
            return
        sources = list(dict.fromkeys(key.partition("accuracy")[0] for key in scores))
        table = Table(title=f"ScienceQA accuracy, step {int(metrics['checkpoint_step'])}, in percent")
        table.add_column("questions")
        for source in sources:
            table.add_column(source.rstrip("/").replace("_", " ") or "own image", justify="right")
        for group in dict.fromkeys(key.partition("accuracy")[2] for key in scores):
            found = [scores.get(f"{source}accuracy{group}") for source in sources]
            table.add_row(
                group.lstrip("/") or "all", *(f"{score:.2f}" if score is not None else "-" for score in found)
            )
        for name in ("count", "unparsed"):
            table.add_row(name, *(str(int(metrics[f"{source}{name}"])) for source in sources))
        Console().print(table)


class Throughput(Callback):
    """Logs tokens and images per second over the whole world, since the last time it logged.

    Time is read on the host. A device works behind it, but over a logging interval the difference averages out.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._num_tokens = 0
        self._num_images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again: validation is no training time."""
        self._restart()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch, and log after each interval."""
        self._num_tokens += batch["num_tokens"]
        self._num_images += len(batch.get("grids") or batch["pixel_values"])
        if not is_step_complete(trainer) or trainer.global_step % self._interval(trainer):
            return
        seconds = max(time.perf_counter() - self._start, 1e-9)
        scale = trainer.world_size / seconds
        pl_module.log_dict(
            {"perf/tokens_per_s": self._num_tokens * scale, "perf/images_per_s": self._num_images * scale},
            prog_bar=True,
        )
        self._restart()

    @staticmethod
    def _interval(trainer: Trainer) -> int:
        return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]  # set by Lightning's logger connector

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._num_tokens = self._num_images = 0
