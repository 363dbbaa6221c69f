"""How long a save holds up training, and what it costs in memory, beside Lightning's own.

    python benchmarks/checkpoint_stall.py --megabytes 500

Both write the same state to the same folder, in turn. Ours also hashes it and waits until the disk has it, which the
peer leaves to luck; the row without waiting tells how much of the time that is.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from llava_pl.training.checkpoint_io import DurableCheckpointIO

WRITERS = ("ours", "ours, not waiting for the disk", "Lightning")


def save_once(name: str, folder: Path, megabytes: int) -> tuple[float, float]:
    """Return the seconds of one save, and by how many megabytes it raised the peak of memory."""
    state = {"global_step": 1, "state_dict": {str(n): torch.randn(2_500_000) for n in range(megabytes // 10)}}
    if name != "ours":
        os.fsync = lambda _: None
    writer = TorchCheckpointIO() if name == "Lightning" else DurableCheckpointIO()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    writer.save_checkpoint(state, folder / "a.ckpt")
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print a Markdown table; each save is made by a process of its own, so that peaks of memory do not mix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--writer", choices=WRITERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        if options.writer:
            print(*save_once(options.writer, Path(folder), options.megabytes))
            return
    found: dict[str, list[list[float]]] = {name: [] for name in WRITERS}
    for _ in range(options.rounds):
        for name, values in found.items():
            command = [sys.executable, __file__, "--megabytes", str(options.megabytes), "--writer", name]
            values.append([float(word) for word in subprocess.check_output(command, text=True).split()])
    print("| writer | median, s | more memory, MB |\n| --- | --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {median(v[0] for v in values):.2f} | {median(v[1] for v in values):.0f} |")


if __name__ == "__main__":
    main()
