"""What a step costs as its batch or its vocabulary grows: time and memory, beside what arithmetic says of them.

    python benchmarks/cost_curves.py --output runs/curves

A small decoder on the CPU, everything but the encoder learns, in float32. Each curve changes one thing. Expected time
is that of the operations (`llava_pl/models/work.py`) at the speed of all points of the curve together; expected memory
is that of `llava-pl plan`. Measured time is that of the forward and the backward pass, the median over rounds in which
the points take turns; the update, for which no operations are counted, grows with the weights alone. Measured memory is
the most that torch had handed out at once in two steps of a Trainer, as its profiler tells, which depends on no clock.
A slope is that of the line through the points, by least squares. Writes `table.md`, `points.json` and `figure.svg`.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from random_work import RandomModule, Shapes, make_sample
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from llava_pl.data.packing import pack
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.work import needed_operations
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.memory_plan import MemoryPlan
from llava_pl.planning.spread import Spread
from llava_pl.training.optim import OptimConfig
from llava_pl.types import Batch

MIB = 2**20
SMALL = Shapes(
    {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 4,
     "image_size": 168, "patch_size": 14},
    {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4,
     "vocab_size": 8192},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work(BatchShape):
    """A micro batch whose samples have any number of pictures, and the vocabulary that it is trained with.

    Args:
        num_pictures: Of each sample.
        vocab_size: V.
    """

    num_pictures: int = 1
    vocab_size: int = SMALL.decoder["vocab_size"]

    @property
    def num_tiles(self) -> int:
        """Pictures that the vision encoder sees."""
        return self.num_samples * self.num_pictures

    def count_image_tokens(self, num_image_tokens: int) -> int:
        """Return the positions that pictures fill."""
        return self.num_tiles * num_image_tokens


@dataclass(frozen=True)
class Curve:
    """What changes along a curve, and what a batch is at each point of it."""

    title: str
    values: Sequence[float]
    work: Callable[[float], Work]


@dataclass(frozen=True)
class Point:
    """One point: what changes, seconds and bytes of a step, and what was expected."""

    value: float
    operations: int
    seconds: float
    planned_bytes: int
    peak_bytes: int


def make_curves(scale: float = 1.0) -> list[Curve]:
    """Return the four curves; ``scale`` makes every batch shorter."""
    patches, num_supervised = SMALL.num_patches, max(2, int(80 * scale))
    shortest = patches + num_supervised + 8
    base = Work(2, max(int(640 * scale), shortest), num_supervised, is_packed=True)
    return [
        Curve(
            "tokens of a step",
            [2 * int(shortest + step * 320 * scale) for step in range(5)],
            lambda tokens: replace(base, length=int(tokens) // 2),
        ),
        Curve(
            "pictures of a sample",
            [0, 1, 2, 3, 4],
            lambda number: replace(base, length=shortest + (int(number) - 1) * patches, num_pictures=int(number)),
        ),
        Curve(
            "supervised share",
            [0.05, 0.2, 0.4, 0.6, 0.75],
            lambda share: replace(base, num_pictures=0, num_supervised=max(1, int(share * base.length))),
        ),
        Curve(
            "words of the vocabulary",
            [int(size * max(scale, 0.1)) for size in (2048, 8192, 16384, 24576, 32768)],
            lambda size: replace(base, vocab_size=int(size)),
        ),
    ]


def make_module(folder: Path) -> RandomModule:
    """Return what is trained."""
    return RandomModule(
        stage="finetune",
        vision_encoder=VisionEncoderConfig(str(folder / "encoder")),
        decoder=DecoderConfig(str(folder / "decoder")),
        optim=OptimConfig(learning_rate=1e-4),
    )


def make_batch(work: Work) -> Batch:
    """Return a row of samples of equal length."""
    shapes = replace(SMALL, decoder={**SMALL.decoder, "vocab_size": work.vocab_size})
    num_text = work.length - 1 - work.num_pictures * SMALL.num_patches
    samples = [
        make_sample(
            str(number),
            shapes,
            num_text=num_text,
            num_supervised=work.num_supervised,
            num_pictures=work.num_pictures,
            generator=torch.Generator().manual_seed(number),
        )
        for number in range(work.num_samples)
    ]
    return pack(samples, num_image_tokens=SMALL.num_patches)


def measure(curve: Curve, num_rounds: int) -> list[Point]:
    """Return the points of a curve."""
    with tempfile.TemporaryDirectory() as name:
        works = [curve.work(value) for value in curve.values]
        folders = [Path(name) / str(place) for place in range(len(works))]
        for folder, work in zip(folders, works, strict=True):
            folder.mkdir()
            replace(SMALL, decoder={**SMALL.decoder, "vocab_size": work.vocab_size}).write(folder)
        settings = SimpleNamespace(accelerator="cpu", precision="32-true", accumulate_grad_batches=1)
        planned = [
            MemoryPlan(make_module(folder), Spread("single"), settings).of(work).peak
            for folder, work in zip(folders, works, strict=True)
        ]
        peaks = [measure_peak(make_module(f), make_batch(work)) for f, work in zip(folders, works, strict=True)]
        steps = [Step(make_module(folder), make_batch(work)) for folder, work in zip(folders, works, strict=True)]
        for turn in range(1 + num_rounds):
            for step in steps if turn % 2 else reversed(steps):
                step.take()
    return [
        Point(value, step.count(work), median(step.seconds[1:]), plan, peak)
        for value, work, step, plan, peak in zip(curve.values, works, steps, planned, peaks, strict=True)
    ]


class Step:
    """A model, its batch, and what its steps took."""

    def __init__(self, module: RandomModule, batch: Batch) -> None:
        module.configure_model()
        self.module, self.batch = module, batch
        self.seconds: list[float] = []

    def take(self) -> None:
        """Take a step, and time the forward and the backward pass."""
        start = time.perf_counter()
        self.module(self.batch).mean.backward()
        self.seconds.append(time.perf_counter() - start)
        self.module.zero_grad()

    def count(self, work: Work) -> int:
        """Return the operations of the step."""
        needed = needed_operations(self.module.model)
        return sum(needed[name] * value for name, value in asdict(work.counts).items())


def measure_peak(module: RandomModule, batch: Batch) -> int:
    """Return the most bytes that torch had handed out at once, of all that a run of two steps has."""
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader: Any = DataLoader([batch, batch], batch_size=None)  # type: ignore[arg-type]
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.fit(module, loader)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    # The batch was there before.
    return int(alive.max()) + sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))


def expected_seconds(points: Sequence[Point]) -> list[float]:
    """Return the time of each point's operations at the speed of all points together."""
    speed = sum(point.operations for point in points) / sum(point.seconds for point in points)
    return [point.operations / speed for point in points]


def slope(values: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of the line through some points, by least squares.

    >>> round(slope([0, 1, 2], [5.0, 7.0, 9.0]), 6)
    2.0
    """
    return float(np.polyfit(values, costs, 1)[0])


def make_table(found: dict[str, list[Point]]) -> str:
    """Return the Markdown table of the slopes."""
    lines = [
        "| per | ms, expected | ms, measured | ratio | KiB, expected | KiB, measured | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, points in found.items():
        values = [point.value for point in points]
        cells = []
        for expected, measured in (
            ([1e3 * s for s in expected_seconds(points)], [1e3 * point.seconds for point in points]),
            ([point.planned_bytes / 1024 for point in points], [point.peak_bytes / 1024 for point in points]),
        ):
            slopes = slope(values, expected), slope(values, measured)
            cells += [f"{slopes[0]:.4g}", f"{slopes[1]:.4g}", f"{slopes[1] / slopes[0]:.2f}"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_figure(found: dict[str, list[Point]], path: Path) -> None:
    """Draw time above memory: measured points, and expected lines."""
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(2, len(found), figsize=(3.2 * len(found), 5), layout="constrained", squeeze=False)
    for column, (title, points) in enumerate(found.items()):
        values = [point.value for point in points]
        for axes, expected, measured in (
            (rows[0][column], [1e3 * s for s in expected_seconds(points)], [1e3 * point.seconds for point in points]),
            (rows[1][column], [p.planned_bytes / MIB for p in points], [p.peak_bytes / MIB for p in points]),
        ):
            axes.plot(values, expected, color="black", linewidth=1, label="expected")
            axes.plot(values, measured, "o", color="#5b84ad", label="measured")
            axes.set_ylim(bottom=0)
        rows[1][column].set_xlabel(title)
    rows[0][0].set_ylabel("ms, forward and backward")
    rows[1][0].set_ylabel("MiB, at most")
    rows[0][0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> dict[str, list[Point]]:
    """Measure, print the table and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/curves"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths; less than 1 to try the script")
    parser.add_argument("--only", nargs="+", help="words that titles of curves begin with")
    words = parser.parse_args(arguments)
    torch.manual_seed(0)
    curves = [c for c in make_curves(words.scale) if not words.only or c.title.startswith(tuple(words.only))]
    found = {curve.title: measure(curve, words.rounds) for curve in curves}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}, torch {version('torch')}"
    text = f"{machine}, {words.rounds} rounds.\n\n{make_table(found)}\n"
    words.output.mkdir(parents=True, exist_ok=True)
    (words.output / "table.md").write_text(text)
    points = {title: [asdict(point) for point in points] for title, points in found.items()}
    (words.output / "points.json").write_text(json.dumps(points, indent=1) + "\n")
    draw_figure(found, words.output / "figure.svg")
    print(text)
    return found


if __name__ == "__main__":
    main()
