"""How fast a run learns, how much of its device it makes use of, and what it waits for.

In: the batches of a run, which know their own sizes. Out: metrics ``perf/...``. Of one device nothing is asked; several
add up their counts once in each logging interval.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from llava_pl.models.llava import LlavaModel
from llava_pl.models.work import needed_operations
from llava_pl.training.schedule import is_step_complete
from llava_pl.types import Batch, InputError

PEAK_TFLOPS = {
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "B200": 2250.0,
    "L40S": 362.0,
}
"""Dense products of 16 bits in a second, in 10^12 operations, from NVIDIA's datasheets; the first name that fits.

Not Lightning's table (`get_available_flops` of 2.6): of the H200 and the H100 NVL it has the rates with sparsity, twice
and more of what dense products can reach, and of the RTX A6000 a quarter.
"""

SUMS = ("seconds", "waited", "tokens", "positions", "samples", "images", "operations")


class Throughput(Callback):
    """Logs the speed of the whole world, since the last time it logged.

    Time is read on the host. A device works behind it, but over a logging interval the difference averages out.

    Args:
        peak_tflops: What a device can do in a second, in 10^12 operations; perf/mfu is measured against it. By default
            that of its dense products in 16 bits where it is known; without one there is no perf/mfu.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        if peak_tflops is not None and not peak_tflops > 0:
            raise InputError(f"throughput.peak_tflops: expected a number above 0, found {peak_tflops:g}")
        self._peak_tflops = peak_tflops
        self._needed: dict[str, int] = {}
        self._sums: Counter[str] = Counter()
        self._start = self._paused = self._waited = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what a batch needs, and start the clock."""
        device = pl_module.device
        if self._peak_tflops is None and device.type == "cuda" and trainer.precision.startswith(("bf16", "16")):
            self._peak_tflops = find_peak(torch.cuda.get_device_name(device))
        if self._peak_tflops and isinstance(model := getattr(pl_module, "model", None), LlavaModel):
            has_features = getattr(getattr(trainer, "datamodule", None), "bring_features", None) is not None
            self._needed = needed_operations(model, encodes=not has_features)
        rank_zero_info(
            f"perf/mfu: measured against {self._peak_tflops:g} * 10^12 operations a second of a device"
            if self._needed
            else "perf/mfu: left out, --throughput.peak_tflops says what a device can do"
        )
        self._restart(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: validation is no training time."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on."""
        self._start += time.perf_counter() - self._paused

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch, and log after each interval."""
        self._sums.update(self._count(batch))
        interval = int(trainer.log_every_n_steps)  # type: ignore[attr-defined]  # set by Lightning's logger connector
        if not interval or not is_step_complete(trainer) or trainer.global_step % interval:
            return
        self._sums["seconds"] = max(time.perf_counter() - self._start, 1e-9)  # type: ignore[assignment]
        if (waited := _waited_seconds(trainer)) is not None:
            self._sums["waited"] = waited - self._waited  # type: ignore[assignment]
        sums = _sum_over_ranks([self._sums[name] for name in SUMS], trainer)
        metrics = self._rates(dict(zip(SUMS, sums, strict=True)), trainer.world_size)
        if waited is None:
            del metrics["perf/data_wait"]
        shown = {name: value for name, value in metrics.items() if name in ("perf/tokens_per_s", "perf/mfu")}
        pl_module.log_dict(shown, prog_bar=True)
        pl_module.log_dict({name: value for name, value in metrics.items() if name not in shown})
        self._restart(trainer)

    def _count(self, batch: Batch) -> dict[str, int]:
        """Return the sums of a micro batch."""
        counts = {
            "tokens": batch["num_tokens"],
            "positions": batch["input_ids"].numel(),
            "samples": len(batch["ids"]) - len(batch.get("skipped", ())),
            "images": len(batch.get("grids") or batch.get("patch_features", batch["pixel_values"])),
        }
        if self._needed:
            of = {
                "num_tiles": len(batch.get("patch_features", batch["pixel_values"])),
                "num_positions": batch["num_tokens"],
                "num_pairs": batch["num_pairs"],
                "num_supervised": batch["num_supervised"],
            }
            counts["operations"] = sum(needed * of[name] for name, needed in self._needed.items())
        return counts

    def _rates(self, sums: dict[str, Tensor], num_ranks: int) -> dict[str, Tensor]:
        """Return the metrics of sums over all ranks, whose clocks have run side by side."""
        seconds = sums["seconds"] / num_ranks
        metrics = {f"perf/{name}_per_s": sums[name] / seconds for name in ("tokens", "positions", "samples", "images")}
        metrics["perf/padding"] = 1 - sums["tokens"] / sums["positions"]
        metrics["perf/data_wait"] = sums["waited"] / sums["seconds"]
        if self._needed:
            metrics["perf/mfu"] = sums["operations"] / (sums["seconds"] * cast("float", self._peak_tflops) * 1e12)
        return metrics

    def _restart(self, trainer: Trainer) -> None:
        self._start, self._waited = time.perf_counter(), _waited_seconds(trainer) or 0.0
        self._sums.clear()


def find_peak(device_name: str) -> float | None:
    """Return what a device can do, of the `PEAK_TFLOPS`; None where it is not known.

    >>> find_peak("NVIDIA H100 80GB HBM3"), find_peak("NVIDIA A100-SXM4-40GB"), find_peak("Tesla T4")
    (989.0, 312.0, None)
    """
    found = (peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device_name))
    return next(found, None)


def _waited_seconds(trainer: Trainer) -> float | None:
    """Return how long the run has waited for its loader; None of a loader that does not tell."""
    return getattr(trainer.train_dataloader, "waited_seconds", None)


def _sum_over_ranks(numbers: list[float], trainer: Trainer) -> Tensor:
    """Return numbers added up over all ranks, float64."""
    if trainer.world_size == 1:
        return torch.tensor(numbers, dtype=torch.float64)  # on the host, where logging it waits for no device
    sums = torch.tensor(numbers, dtype=torch.float64, device=trainer.strategy.root_device)
    return cast("Tensor", trainer.strategy.reduce(sums, reduce_op="sum"))
