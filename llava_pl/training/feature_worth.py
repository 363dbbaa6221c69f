"""Whether a store of features pays: encodings that it spares, their share of the run's operations, and bytes.

In: the settings of a run whose data is counted, and of its model the shapes alone. Out: a `FeatureWorth`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.models.work import BatchCounts, add_up, count_work
from llava_pl.training.rehearsal import sketch_run
from llava_pl.types import InputError

if TYPE_CHECKING:
    from llava_pl.training.module import LlavaModule

LEAST_SHARE = 0.05
"""Of a run's operations: what spares less is no use for the disk that it takes and the bytes that it reads."""

ADVICE = "set data.feature_cache to none, or to always where more runs with this encoder and these pictures follow"


@dataclass(frozen=True, slots=True)
class FeatureWorth:
    """What a run would do without a store.

    Args:
        num_pictures: That it shows, each counted once.
        num_shown: How often it shows one, and so encodes one.
        encoding_work: Floating-point operations of encoding one.
        run_work: Of the whole run.
        row_bytes: Of the features of a picture.
    """

    num_pictures: int
    num_shown: int
    encoding_work: float
    run_work: float
    row_bytes: int

    def share(self, num_missing: int) -> float:
        """Return the share of the run's operations that a store spares which lacks so many of the pictures."""
        return (self.num_shown - num_missing) * self.encoding_work / self.run_work

    def describe(self, num_missing: int) -> str:
        """Return what such a store takes and spares."""
        spared = self.num_shown - num_missing
        if spared < 0:  # by "always", for runs to come
            gain = f"costs {-spared:,} encodings more than the {self.num_shown:,} of this run"
        else:
            share = f"{self.share(num_missing):.1%} of the run's operations"
            gain = f"spares {spared:,} of {self.num_shown:,} encodings, {share}"
        return (
            f"{self.num_pictures:,} pictures, {num_missing:,} of them to be encoded first; "
            f"{_size(self.num_pictures * self.row_bytes)} on disk; {gain}; reading takes {_size(self.row_bytes)} each"
        )

    def check(self, num_missing: int) -> None:
        """Check that such a store pays.

        Raises:
            InputError: It does not.
        """
        size = _size(self.num_pictures * self.row_bytes)
        if not self.num_pictures:
            raise InputError("data.feature_cache: the run shows no picture; set data.feature_cache to none")
        if self.num_shown <= num_missing:
            raise InputError(
                f"data.feature_cache: does not pay: this run shows pictures {self.num_shown:,} times and the store "
                f"lacks {num_missing:,}, which would all be encoded first; the store would be {size}; {ADVICE}"
            )
        if self.share(num_missing) < LEAST_SHARE:
            raise InputError(
                f"data.feature_cache: does not pay: {self.num_shown - num_missing:,} of {self.num_shown:,} encodings "
                f"spared are {self.share(num_missing):.1%} of the run's operations, expected at least "
                f"{LEAST_SHARE:.0%}; the store would be {size}; {ADVICE}"
            )

    def check_disk(self, num_missing: int, folder: Path) -> None:
        """Check that the disk of a folder takes what a store lacks.

        Raises:
            InputError: It does not.
        """
        needed, free = num_missing * self.row_bytes, shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(
                f"data.feature_cache: {num_missing:,} pictures x {_size(self.row_bytes)} need "
                f"{_size(needed)} on the disk of {folder}, found {_size(free)} free; make room, set "
                "data.cache_dir or LLAVA_PL_CACHE to another disk, or data.feature_cache to none"
            )


def measure_worth(
    module: LlavaModule, data: ConversationDataModule, *, num_steps: int, num_ranks: int, num_micro_batches: int
) -> FeatureWorth:
    """Return what a run would do without a store.

    Args:
        module: Of which `configure_model` need not have been called.
        data: Whose training data is open.
        num_steps: Optimizer steps of the run.
        num_ranks: Devices in all.
        num_micro_batches: Micro batches of a step and device.
    """
    counts, lengths = data.train_data.count_pictures(), data.train_data.num_tokens.astype(np.int64)
    supervised = getattr(data.train_data, "num_supervised", lengths)
    shown_per_epoch = counts.total()
    model = sketch_run(module.model_config, module.plan, module.lora)
    epoch = BatchCounts(
        num_tiles=shown_per_epoch,
        num_positions=int(lengths.sum()),
        num_pairs=int((lengths**2).sum()),
        num_supervised=int(supervised.sum(dtype=np.int64)),
    )
    work = count_work(model, epoch, module.model_config.decoder.recompute)
    whole, encoding = add_up(work), next(part for part in work if part.part == "vision_encoder")
    # Fewer than the trainer is told where its steps or batches are limited.
    num_epochs = num_steps / max(1, ceil(data.count_train_batches(num_ranks) / num_micro_batches))
    encoder = model.vision_encoder
    dtype = next(encoder.parameters()).dtype
    return FeatureWorth(
        num_pictures=len(counts),
        num_shown=round(num_epochs * shown_per_epoch),
        encoding_work=encoding.forward / max(1, shown_per_epoch),
        run_work=num_epochs * (whole.forward + whole.backward + whole.again),
        row_bytes=encoder.num_patches * encoder.width * dtype.itemsize,
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
