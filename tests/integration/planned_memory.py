"""A run on two ranks, and its plan: tell the bytes of both. For `test_planned_memory.py`; each rank runs this."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning import Trainer
from torch.profiler import ProfilerActivity, profile

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.data_facts import read_facts
from llava_pl.planning.memory_plan import MemoryPlan
from llava_pl.planning.spread import read_spread
from llava_pl.training.optim import OptimConfig
from llava_pl.training.strategies import FSDP2Strategy


def make(folder: Path, recomputation: str, trainable: str) -> LlavaModule:
    """Return what is trained, and planned."""
    return LlavaModule(
        stage="finetune",
        vision_encoder=VisionEncoderConfig(str(folder / "encoder")),
        decoder=DecoderConfig(str(folder / "decoder"), gradient_checkpointing=recomputation),
        optim=OptimConfig(learning_rate=1e-3),
        trainable=json.loads(trainable),
    )


def main(folder: Path, strategy: str, recomputation: str, precision: str, trainable: str) -> None:
    """Train, and print the planned and the measured peak of the first rank."""
    torch.set_num_threads(1)
    data = LlavaDataModule(
        records=folder / "records.json", image_folder=folder, tokenizer=str(folder / "decoder"),
        image_processor=str(folder / "encoder"), num_image_tokens=64, batch_size=4, num_workers=0,
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=FSDP2Strategy() if strategy == "fsdp2" else strategy,
        precision=precision, max_steps=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.fit(make(folder, recomputation, trainable), datamodule=data)
    if trainer.global_rank != 0:
        return
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    given = {"class_path": "llava_pl.training.strategies.FSDP2Strategy"} if strategy == "fsdp2" else strategy
    settings = SimpleNamespace(
        accelerator="cpu", precision=precision, accumulate_grad_batches=1, devices=2, num_nodes=1, strategy=given
    )
    facts = read_facts(data, max_length=2048, num_image_tokens=64, num_ranks=2, num_micro_batches=1)
    plan = MemoryPlan(make(folder, recomputation, trainable), read_spread(settings), settings)
    planned = plan.of(BatchShape(4, facts.batch_length, facts.batch_supervised)).peak
    sys.stdout.write(f"PEAKS {planned} {peak}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
