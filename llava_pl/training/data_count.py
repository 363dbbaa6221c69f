"""What a run learned from: samples by source, what was left out and why, and the order of each epoch.

In: the batches of a run. Out: metrics, lines on the terminal, and ``data.json`` in the folder of the run, by which two
runs can be compared. A checkpoint holds the counts, and refuses to go on with other data.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from rich.table import Table
from torch import Tensor

from llava_pl.data.dataset import PICTURE_REASONS
from llava_pl.data.ordering import name_order
from llava_pl.data.sampler import ResumableSampler
from llava_pl.data.training_data import GivenRecords, TrainingData
from llava_pl.types import Batch, InputError

SKIP_REASONS = ("too_long", "picture_missing", "picture_broken")
"""Why a sample can be left out while training; the data modules' `on_too_long` and `bad_records` decide."""

MOST_UNREADABLE = 100
"""Samples of a device that may miss their picture one after the other: beyond that it is the disk that is away."""

_STATE = "llava_pl_data_count"


class DataCount(Callback):
    """Counts the samples of each source over the whole world, those that were left out apart, and says so.

    Training counts from the start of the run, across resumes, and is told of after each epoch and at its end; each
    validation counts for itself.

    Args:
        run_dir: Folder of the run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self._path = Path(run_dir) / "data.json"
        self._before: list[list[int]] | None = None
        self._counts = torch.zeros(0, 1 + len(SKIP_REASONS), dtype=torch.int64)
        self._val: Counter[str] = Counter()
        self._num_unreadable = 0
        self._told_epoch = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at zero, or where the checkpoint left off."""
        self._told_epoch = -1
        self._counts = torch.zeros(len(_data(trainer).labels), 1 + len(SKIP_REASONS), dtype=torch.int64)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Say which order the epoch has, and write it down, before its first batch of this process."""
        # Not at the start of the epoch: of one that is resumed midway, Lightning tells nobody.
        if trainer.current_epoch != self._told_epoch:
            self._told_epoch = trainer.current_epoch
            self._tell_order(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count on this rank.

        Raises:
            InputError: No picture of the last samples could be read.
        """
        data, reasons = _data(trainer), dict(batch.get("skipped", ()))
        for index in batch.get("indices", ()):
            self._num_unreadable = self._num_unreadable + 1 if reasons.get(index) in PICTURE_REASONS else 0
        if self._num_unreadable >= MOST_UNREADABLE:
            raise InputError(
                f"data.image_folder: expected a picture that can be read, found none among the last "
                f"{self._num_unreadable} samples of this device; see that the disk is there, and go on with "
                "--ckpt_path last"
            )
        for column, reason in enumerate((None, *SKIP_REASONS)):
            if reason is None or reason in reasons.values():
                indices = [index for index in batch.get("indices", ()) if reasons.get(index) == reason]
                self._counts[:, column] += torch.tensor(data.count_sources(indices))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many samples of each source were learned from and left out so far."""
        # Every rank has the sums. Lightning would add them up again as soon as somebody looks at them, and a progress
        # bar does so on the first rank alone, which then meets the others at something else: `rank_zero_only` keeps it
        # from that, and `sync_dist` from a warning.
        log = partial(pl_module.log, sync_dist=True, rank_zero_only=True)
        for label, (num_seen, *skipped) in zip(_data(trainer).labels, self._totals(trainer), strict=True):
            log(f"data/seen/{label}", float(num_seen))
            for reason, count in zip(SKIP_REASONS, skipped, strict=True):
                if count:
                    log(f"data/skipped/{label}/{reason}", float(count))
                    rank_zero_warn(f"data/skipped/{label}/{reason}: {count:,} samples were left out so far")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the counts of the whole run."""
        totals = self._totals(trainer)
        if not trainer.is_global_zero:
            return
        reasons = [reason for column, reason in enumerate(SKIP_REASONS, 1) if any(row[column] for row in totals)]
        table = Table(title="samples of the run")
        for name in ("source", "learned from", *(f"left out: {reason}" for reason in reasons)):
            table.add_column(name, justify="left" if name == "source" else "right")
        for label, (num_seen, *skipped) in zip(_data(trainer).labels, totals, strict=True):
            counts = dict(zip(SKIP_REASONS, skipped, strict=True))
            table.add_row(label, f"{num_seen:,}", *(f"{counts[reason]:,}" for reason in reasons))
        Console().print(table)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at zero."""
        self._val.clear()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count on this rank."""
        self._val.update(reason for _, reason in batch.get("skipped", ()))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many samples were left out of this validation."""
        counts = _sum_over_ranks(trainer, torch.tensor([self._val[reason] for reason in SKIP_REASONS]))
        for reason, count in zip(SKIP_REASONS, counts.tolist(), strict=True):
            if count:
                pl_module.log(f"val/skipped/{reason}", float(count), sync_dist=True)
                rank_zero_warn(f"val/skipped/{reason}: {count:,} samples were left out")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what the run has learned from so far, and the hash of the data that it goes through."""
        content, order = _data(trainer).content, _order(trainer)
        checkpoint[_STATE] = {"content": content, "order": order, "counts": self._totals(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on counting.

        Raises:
            InputError: The run went through other data or another order: its place in it means nothing here.
        """
        state = checkpoint.get(_STATE)
        if state is None or trainer.state.fn != "fit":
            return
        content = _data(trainer).content
        if content and state["content"] and content != state["content"]:
            raise InputError(
                f"ckpt_path: the run went through other training data (expected content {state['content'][:8]}, found "
                f"{content[:8]}); resume with the same records, repeats and quarantine, or start anew with "
                "--model.init_from"
            )
        if state["order"] != _order(trainer):
            raise InputError(
                f"ckpt_path: the run took its samples in another order (expected {state['order']}, found "
                f"{_order(trainer)}); "
                "resume with the same data.seed and data.grouping, or start anew with --model.init_from"
            )
        self._before = state["counts"]

    def _tell_order(self, trainer: Trainer) -> None:
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if not trainer.is_global_zero or not isinstance(sampler, ResumableSampler):
            return
        data, epoch, order = _data(trainer), trainer.current_epoch, sampler.order_hash
        rank_zero_info(f"data: order {order} of {sampler.num_dataset:,} samples in epoch {epoch}")
        if data.content is None or getattr(trainer, "fast_dev_run", False):
            return
        orders = {**self._read_orders(data.content), str(epoch): order}
        report = {"content": data.content, "sources": data.describe(), "orders": orders}
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._path)

    def _read_orders(self, content: str) -> dict[str, str]:
        """Return the orders of earlier epochs, as far as they are of the same data."""
        try:
            report = json.loads(self._path.read_text(encoding="utf-8"))
            return dict(report["orders"]) if report["content"] == content else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _totals(self, trainer: Trainer) -> list[list[int]]:
        """Return a row for each source, over the whole world: samples learned from, then left out by reason."""
        totals = _sum_over_ranks(trainer, self._counts)
        return (totals if self._before is None else totals + torch.tensor(self._before)).tolist()


def _data(trainer: Trainer) -> TrainingData | GivenRecords:
    data = trainer.datamodule.train_data  # type: ignore[attr-defined]
    assert isinstance(data, TrainingData | GivenRecords)  # the command line takes no data module but ours
    return data


def _order(trainer: Trainer) -> str:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return name_order(data.grouping, data.seed)


def _sum_over_ranks(trainer: Trainer, counts: Tensor) -> Tensor:
    if trainer.world_size == 1:
        return counts
    counts = counts.to(trainer.strategy.root_device, copy=True)  # Lightning adds up in place
    return cast("Tensor", trainer.strategy.reduce(counts, reduce_op="sum")).cpu()
