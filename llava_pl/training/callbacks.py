"""What a run says about itself: the trainable plan at its start, the loss of `validate`."""

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


class LossLine(Callback):
    """Shows the loss that `validate` measured."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it; during `fit` the log has it."""
        if trainer.state.fn == "validate" and trainer.is_global_zero and "val/loss" in trainer.callback_metrics:
            Console().print(f"val/loss {float(trainer.callback_metrics['val/loss']):.4f} per supervised token")
