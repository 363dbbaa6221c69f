"""What a run says about itself: the trainable plan at its start, its scores at the end."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from llava_pl.training.stages import summarize_parts


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
