"""G1 to G6: a 7B of random weights on one GPU, in the shapes and with the lengths of LLaVA-1.5.

    python benchmarks/gpu.py finetune                            # G1: all weights, bf16 with AdamW of 8 bits, packed
    python benchmarks/gpu.py align                               # G2: the projector alone
    python benchmarks/gpu.py lora                                # G3: LoRA of rank 128, packed
    python benchmarks/gpu.py finetune --rows padded              # G4; also --recompute, --logits all, and of
    python benchmarks/gpu.py finetune --decoder attention=eager  # `DecoderConfig` any field, as compile_layers=true
    python benchmarks/gpu.py finetune --rows padded --peer transformers     # the same samples, all recomputed
    python benchmarks/gpu.py evaluate                            # G6: short answers, in batches and one by one

Each run is a process of its own and takes minutes at most. It is trained by `LlavaModule` and Lightning's Trainer, as
`fit` does; weights are drawn on the device. Prints a row of a Markdown table, and adds it as JSON to `--out`. Memory
(G5) stands beside what `llava-pl plan` says of the same run. G7 is `loader.py`. `--dry` does all of it on the CPU in
tiny shapes: what it prints means nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from padding import cut
from random_work import SEVEN_B, TINY, RandomModule, Shapes, draw_samples
from torch.nn import functional as F
from torch.utils.data import DataLoader

import llava_pl.models.llava
from llava_pl.data.collate import collate
from llava_pl.data.ordering import deal_packed
from llava_pl.data.packing import pack
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.models.prompts import Prompts
from llava_pl.models.work import needed_operations
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.memory_plan import MemoryPlan
from llava_pl.planning.spread import Spread
from llava_pl.training.optim import OptimConfig
from llava_pl.training.stages import TrainablePlan
from llava_pl.training.throughput import find_peak
from llava_pl.types import IGNORE_INDEX, Batch, LossOutput, Sample

GIB = 2**30
NUM_WARM_UPS = 3
DEFAULTS: dict[str, dict[str, Any]] = {
    "finetune": {"samples": 10, "recompute": "selective", "rows": "packed"},
    "align": {"samples": 16, "recompute": "none", "rows": "padded"},
    "lora": {"samples": 10, "recompute": "selective", "rows": "packed"},
    "evaluate": {"samples": 32, "recompute": "none", "rows": "padded"},
}
"""What is planned to fit into 80 GB, and no option says otherwise."""
COLUMNS = ("run", "device", "ms per step", "samples/s", "useful tokens/s", "MFU", "peak GiB", "planned GiB", "settings")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("run", choices=["finetune", "align", "lora", "evaluate"])
    parser.add_argument("--samples", type=int, help="of a micro batch, of packed rows on average")
    parser.add_argument("--steps", type=int, default=8, help="that are timed, after three that are not")
    parser.add_argument("--rows", choices=["packed", "padded"])
    parser.add_argument("--recompute", choices=["none", "selective", "full"])
    parser.add_argument("--logits", choices=["supervised", "all"], default="supervised", help="rows through the head")
    parser.add_argument("--optimizer", help="by default 8-bit AdamW of bitsandbytes in finetune, else torch's")
    parser.add_argument("--decoder", action="append", default=[], metavar="KEY=VALUE", help="a field of DecoderConfig")
    parser.add_argument("--peer", choices=["transformers"], help="who trains in our place")
    parser.add_argument("--peak_tflops", type=float, help="of the device, where it is not known")
    parser.add_argument("--out", type=Path, help="a file of JSON lines that the row is added to")
    parser.add_argument("--dry", action="store_true", help="on the CPU in tiny shapes")


def make_module(folder: Path, words: argparse.Namespace) -> RandomModule:
    """Return what is trained."""
    kind, is_align = words.run, words.run in ("align", "evaluate")
    options = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in words.decoder)}
    optimizer = words.optimizer or (
        "bitsandbytes.optim.AdamW8bit" if kind == "finetune" and not words.dry else "torch.optim.AdamW"
    )
    return RandomModule(
        stage="align" if is_align else "finetune",
        vision_encoder=VisionEncoderConfig(str(folder / "encoder")),
        decoder=DecoderConfig(str(folder / "decoder"), **{"gradient_checkpointing": words.recompute, **options}),
        optim=OptimConfig(learning_rate=1e-5, optimizer=optimizer),
        trainable=TrainablePlan(decoder="lora") if kind == "lora" else None,
        lora=LoraConfig(rank=128, alpha=256) if kind == "lora" else None,
        frozen_dtype="bfloat16",
    )


def make_batches(words: argparse.Namespace, shapes: Shapes) -> list[Batch]:
    """Return the micro batches of the run, each a step."""
    number = NUM_WARM_UPS + words.steps
    samples = draw_samples("align" if words.run == "align" else "finetune", number * words.samples, shapes)
    if words.rows == "padded":
        groups = cut(samples, words.samples)
        return [
            collate(group, pad_token_id=0, num_image_tokens=shapes.num_patches, padding_side="right")
            for group in groups
        ]
    lengths = [len(sample.input_ids) for sample in samples]
    (deal,) = deal_packed(range(len(samples)), lengths, num_ranks=1, num_micro_batches=number)
    return [pack([samples[index] for index in indices], num_image_tokens=shapes.num_patches) for indices in deal]


class Stopwatch(Callback):
    """Times all steps together, from when the device is done with those before them until it is done with the last."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401
        """Start the clock, and the count of memory, behind the last step that is not timed."""
        if trainer.global_step == NUM_WARM_UPS:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            self.seconds = -time.perf_counter()

    def on_train_end(self, *_: Any) -> None:  # noqa: ANN401
        """Stop it."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter()


def fit(module: LightningModule, batches: list[Batch], words: argparse.Namespace) -> float:
    """Return the seconds of all timed steps."""
    watch = Stopwatch()
    trainer = Trainer(
        accelerator="cpu" if words.dry else "gpu",
        devices=1,
        precision=_precision(words),
        max_steps=len(batches),
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    trainer.fit(module, DataLoader(batches, batch_size=None, pin_memory=not words.dry))  # type: ignore[arg-type]
    return watch.seconds


def plan_peak(folder: Path, words: argparse.Namespace, batches: list[Batch], shapes: Shapes) -> int:
    """Return the bytes that `llava-pl plan` says of the run's largest micro batch."""
    settings = SimpleNamespace(
        accelerator="cpu" if words.dry else "gpu", precision=_precision(words), accumulate_grad_batches=1
    )
    largest = max(batches, key=lambda batch: batch["input_ids"].numel())
    number = len(largest["ids"])
    shape = BatchShape(
        num_samples=number,
        length=ceil(largest["input_ids"].numel() / number),
        num_supervised=ceil(largest["num_supervised"] / number),
        is_packed="sequence_lengths" in largest,
    )
    return MemoryPlan(make_module(folder, words), Spread("single"), settings).of(shape).peak


def train(folder: Path, words: argparse.Namespace, shapes: Shapes) -> dict[str, Any]:
    """Return the numbers of a run that trains."""
    batches = make_batches(words, shapes)
    timed = batches[NUM_WARM_UPS:]
    module = make_module(folder, words)
    if words.logits == "all":
        llava_pl.models.llava.supervised_loss = loss_of_all_rows
    if words.peer == "transformers":
        from gpu_transformers import TransformersModule

        seconds = fit(TransformersModule(module, shapes), batches, words)
        needed: dict[str, int] = {}
    else:
        seconds = fit(module, batches, words)
        needed = needed_operations(module.model)
    peak = words.peak_tflops or (None if words.dry else find_peak(torch.cuda.get_device_name()))
    counts = {
        "num_tiles": sum(len(batch["pixel_values"]) for batch in timed),
        "num_positions": sum(batch["num_tokens"] for batch in timed),
        "num_pairs": sum(batch["num_pairs"] for batch in timed),
        "num_supervised": sum(batch["num_supervised"] for batch in timed),
    }
    operations = sum(needed.get(name, 0) * count for name, count in counts.items())
    return {
        "seconds": seconds,
        "steps": len(timed),
        "samples": sum(len(batch["ids"]) for batch in timed),
        **counts,
        "operations": operations,
        "mfu": operations / seconds / peak / 1e12 if peak and operations else None,
        "peak_bytes": None if words.dry else torch.cuda.max_memory_allocated(),
        "planned_bytes": None if words.peer else plan_peak(folder, words, batches, shapes),
    }


def evaluate(folder: Path, words: argparse.Namespace, shapes: Shapes) -> dict[str, Any]:
    """Return the seconds that 1,000 questions take in batches of like length, and what a tenth takes one by one.

    Four tokens answer each, as `validate` has them answered.
    """
    device = torch.device("cpu" if words.dry else "cuda")
    module = make_module(folder, words)
    module.configure_model()
    model = module.model.to(device, torch.bfloat16).eval()
    questions = draw_samples("evaluate", 8 if words.dry else 1000, shapes)
    questions.sort(key=lambda question: len(question.input_ids))

    def answer(asked: list[Sample], size: int) -> float:
        start = time.perf_counter()
        for group in cut(asked, size):
            batch = collate(group, pad_token_id=0, num_image_tokens=shapes.num_patches, padding_side="left")
            pixel_values = batch["pixel_values"].to(device, torch.bfloat16)
            prompts = Prompts(batch["input_ids"].to(device), batch["attention_mask"].to(device), pixel_values)
            model.answer(prompts, max_new_tokens=4, end_ids=())
        if not words.dry:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / len(asked)

    answer(questions[-words.samples :], words.samples)  # to warm up
    batched, single = answer(questions, words.samples), answer(questions[5::10] or questions, 1)
    lengths = [len(question.input_ids) for question in questions]
    found = {"seconds": batched, "steps": 1, "samples": 1, "num_positions": sum(lengths) / len(lengths)}
    return found | {"seconds_one_by_one": single, "one_by_one_over_batched": single / batched}


def loss_of_all_rows(hidden: torch.Tensor, labels: torch.Tensor, head: Any, **_: Any) -> LossOutput:  # noqa: ANN401
    """Return the loss with the logits of every row, as a model without a choice of rows computes it."""
    logits, targets = head(hidden[:, :-1]).float(), labels[:, 1:]
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return LossOutput(total=total, num_supervised=(targets != IGNORE_INDEX).sum())


def as_row(words: argparse.Namespace, found: dict[str, Any]) -> str:
    """Return a row of the table."""
    per_second = {name: found[name] / found["seconds"] for name in ("samples", "num_positions")}
    chosen = {"one by one / batched": f"{found['one_by_one_over_batched']:.1f}"} if words.run == "evaluate" else {}
    chosen |= {k: v for k, v in vars(words).items() if k not in ("run", "out", "dry") and v}
    cells = [
        f"{words.run}{' (dry)' if words.dry else ''}",
        found["device"],
        f"{1000 * found['seconds'] / found['steps']:.0f}",
        f"{per_second['samples']:.1f}",
        f"{per_second['num_positions']:.0f}",
        "-" if found.get("mfu") is None else f"{found['mfu']:.1%}",
        *("-" if found.get(name) is None else f"{found[name] / GIB:.1f}" for name in ("peak_bytes", "planned_bytes")),
        ", ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in chosen.items()),
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run, print the row and return its numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    words = parser.parse_args(arguments)
    for name, value in DEFAULTS[words.run].items():
        setattr(words, name, getattr(words, name) or value)
    if words.peer:
        if words.run not in ("finetune", "align") or words.rows != "padded" or words.logits == "all":
            parser.error(
                "--peer: expected finetune or align with --rows padded and --logits supervised; "
                f"found {words.run} with {words.rows} and {words.logits}"
            )
        words.recompute = "full"  # as the peer does it
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    shapes = TINY if words.dry else SEVEN_B
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shapes.write(folder)
        found = evaluate(folder, words, shapes) if words.run == "evaluate" else train(folder, words, shapes)
    packages = {name: version(name) for name in ("torch", "transformers", "lightning", "peft")}
    found |= {"device": "CPU" if words.dry else torch.cuda.get_device_name(), "versions": packages}
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n{as_row(words, found)}")
    if words.out is not None:
        with words.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"words": {**vars(words), "out": None}, **found}) + "\n")
    return found


def _precision(words: argparse.Namespace) -> str:
    return "bf16-true" if words.run == "finetune" else "bf16-mixed"


if __name__ == "__main__":
    main()
