"""B9: how long a save holds up training, and what it costs in memory, beside Lightning's own ways.

    python benchmarks/checkpoint_stall.py

Each run is a process of its own: a Trainer with one big matrix and AdamW, saved three times on the way. The stall is
the time from the end of a step to the start of the next one, less what lies between two steps anyway; it is taken for
the first save and for the second (nothing follows the third). What a thread that writes takes from training is the
time that the steps up to the next save need beyond that of steps before the first one. More memory is what the saves
add to the process's peak. Ours also hashes the file and hands it to the disk, which the peers leave to luck.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llava_pl.training.background import BackgroundCheckpointIO
from llava_pl.training.checkpoint_io import DurableCheckpointIO
from llava_pl.training.saving import RunCheckpoint

WAYS: dict[str, Callable[[], TorchCheckpointIO | AsyncCheckpointIO]] = {
    "Lightning": TorchCheckpointIO,
    "Lightning, AsyncCheckpointIO": AsyncCheckpointIO,
    "ours, `--save_in_background false`": DurableCheckpointIO,
    "ours": BackgroundCheckpointIO,
}


class BigMatrix(LightningModule):
    """A matrix of which a step reads some rows, and AdamW changes all.

    Args:
        megabytes: Its size; a checkpoint is three times as large.
    """

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(megabytes * 256, 1024)
        self.layer = nn.Linear(1024, 1024)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return some loss."""
        return self.layer(self.rows(batch)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW that needs no memory for a moment."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)


class Stopwatch(Callback):
    """Notes when each step starts and ends, and the peaks of memory before the first save and in all."""

    def __init__(self, every_n_steps: int) -> None:
        self._every_n_steps = every_n_steps
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.peaks: list[int] = []

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: ANN401
        """Look at the clock."""
        self.starts.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        """Look at the clock, before any checkpoint callback, and at the memory."""
        self.ends.append(time.perf_counter())
        if len(self.ends) == self._every_n_steps // 2:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        if len(self.ends) in (self._every_n_steps, 3 * self._every_n_steps):
            status = Path("/proc/self/status").read_text()
            self.peaks.append(int(status.partition("VmHWM:")[2].split()[0]) // 1024)


def run_once(way: str, folder: Path, megabytes: int, every_n_steps: int) -> dict[str, float]:
    """Return what was measured in a run."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    watch, io = Stopwatch(every_n_steps), WAYS[way]()
    saver = (
        RunCheckpoint(folder, every_n_steps=every_n_steps, num_kept=1)
        if isinstance(io, DurableCheckpointIO)
        else ModelCheckpoint(folder, every_n_train_steps=every_n_steps)
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=3 * every_n_steps, callbacks=[watch, saver], plugins=[io], logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(BigMatrix(megabytes), DataLoader(torch.arange(3 * every_n_steps * 512), batch_size=512))
    gaps = [start - end for end, start in zip(watch.ends, watch.starts[1:], strict=False)]
    steps = [end - start for start, end in zip(watch.starts, watch.ends, strict=True)]
    usual = median(steps[every_n_steps // 2 : every_n_steps])
    first, second = (gaps[n * every_n_steps - 1] - median(gaps) for n in (1, 2))
    return {
        "first": first,
        "second": second,
        "step": usual,
        "later": sum(steps[every_n_steps:]) / 2 - every_n_steps * usual,
        "memory": watch.peaks[1] - watch.peaks[0],
    }


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--every_n_steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            print(json.dumps(run_once(options.way, Path(folder), options.megabytes, options.every_n_steps)))
        return
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, runs in found.items():
            os.sync()  # what the run before left to the operating system is not this one's
            words = [f"--{name}={value}" for name, value in (vars(options) | {"way": way}).items()]
            runs.append(json.loads(subprocess.check_output([sys.executable, __file__, *words], text=True)))
            print(way, runs[-1], file=sys.stderr, flush=True)
    middle = {way: {name: median(run[name] for run in runs) for name in runs[0]} for way, runs in found.items()}
    peer = middle["Lightning"]
    print(f"A step takes {median(m['step'] for m in middle.values()):.2f} s.\n")
    print("| saved by | first stall, s | ratio | second stall, s | ratio | taken from steps, s | more memory, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, m in middle.items():
        ratios = [f"{m[name]:.2f} | {m[name] / peer[name]:.2f}" for name in ("first", "second")]
        print(f"| {way} | {ratios[0]} | {ratios[1]} | {m['later']:.1f} | {m['memory']:.0f} |")


if __name__ == "__main__":
    main()
