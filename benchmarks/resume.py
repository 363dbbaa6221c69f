"""B10: time to the first resumed step, 90 % through an epoch of 100,000 samples, beside a loader that reads them again.

    python benchmarks/resume.py

The peer is the same trainer, model and data with an ordinary DataLoader whose `load_state_dict` fetches and drops what
was done, as trainers do that skip batches. Both start from the same checkpoint; what is timed is `Trainer.fit` until
the end of its first step. Records are one short line without a picture, which favours the peer: reading them is cheap.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from character_tokenizer import WORDS, make_tokenizer
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl import LlavaDataModule, LlavaModule
from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.training.checkpoint_io import DurableCheckpointIO
from llava_pl.training.optim import OptimConfig
from llava_pl.training.seeding import SeedSteps
from llava_pl.types import Batch

BATCH_SIZE = 8


class ReplayLoader(DataLoader):
    """A loader that comes to its place by fetching everything before it."""

    _num_done = 0

    def state_dict(self) -> dict[str, int]:
        """Return the batches that are done."""
        return {"num_done": self._num_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Remember where to go on."""
        self._num_done = state["num_done"]

    def __iter__(self) -> Iterator[Batch]:
        """Skip what is done."""
        batches = super().__iter__()
        for _ in range(self._num_done):
            next(batches)
        for batch in batches:
            batch["num_step_supervised"] = batch["num_supervised"]
            self._num_done += 1
            yield batch


class ReplayDataModule(LlavaDataModule):
    """The same data through the peer's loader."""

    def train_dataloader(self) -> DataLoader:
        """Return the peer's loader."""
        own = super().train_dataloader()
        return ReplayLoader(
            own.dataset, BATCH_SIZE, sampler=own.sampler, collate_fn=own.collate_fn, num_workers=self.num_workers
        )


class FirstStep(Callback):
    """Notes when the first step is done, and ends the run."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: ANN401
        """Look at the clock."""
        self.time = time.perf_counter()
        trainer.fit_loop.epoch_loop.max_steps = trainer.global_step


def write_parts(folder: Path) -> None:
    """Write a tiny CLIP encoder and LLaMA decoder with random weights."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8
    )
    CLIPVisionModel(vision).save_pretrained(folder / "encoder")
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        folder / "encoder"
    )
    make_tokenizer().save_pretrained(folder / "decoder")
    language = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(language).save_pretrained(folder / "decoder")


def write_records(folder: Path, num_records: int) -> None:
    """Write records without pictures."""
    turns = [{"from": "human", "value": "What colour is it?"}, {"from": "gpt", "value": "red"}]
    records = [{"id": str(number), "conversations": turns} for number in range(num_records)]
    (folder / "records.json").write_text(json.dumps(records))


def make(folder: Path, kind: type[LlavaDataModule], num_workers: int) -> tuple[LightningModule, LlavaDataModule]:
    """Return a module and its data."""
    module = LlavaModule(
        stage="align",
        vision_encoder=VisionEncoderConfig(str(folder / "encoder")),
        decoder=DecoderConfig(str(folder / "decoder")),
        optim=OptimConfig(learning_rate=1e-3),
    )
    data = kind(
        records=folder / "records.json",
        image_folder=folder,
        cache_dir=folder / "cache",
        tokenizer=str(folder / "decoder"),
        image_processor=str(folder / "encoder"),
        num_image_tokens=4,
        batch_size=BATCH_SIZE,
        num_workers=num_workers,
    )
    return module, data


def run(folder: Path, kind: type[LlavaDataModule], num_workers: int, ckpt_path: Path | None) -> tuple[float, Trainer]:
    """Return the seconds from `fit` to the end of its first step."""
    first = FirstStep()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[first, SeedSteps(0)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
        plugins=[DurableCheckpointIO()],
    )  # fmt: skip
    module, data = make(folder, kind, num_workers)
    start = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return first.time - start, trainer


def write_checkpoint(folder: Path, num_done: int) -> Path:
    """Write the checkpoint of a run after so many steps, by setting the counters of one after a single step."""
    _, trainer = run(folder, LlavaDataModule, 0, None)
    state = trainer._checkpoint_connector.dump_checkpoint()
    loop = state["loops"]["fit_loop"]
    for tracker in ("total", "current"):
        for counted in loop["epoch_loop.batch_progress"][tracker]:
            loop["epoch_loop.batch_progress"][tracker][counted] = num_done
        for counted in loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"][tracker]:
            loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"][tracker][counted] = num_done
        for counted in ("processed", "completed"):
            loop["epoch_progress"][tracker][counted] = 0
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    loop["state_dict"]["combined_loader"] = [{"num_done": num_done}]
    state["global_step"] = num_done
    DurableCheckpointIO().save_checkpoint(state, folder / "at.ckpt")
    return folder / "at.ckpt"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parts(folder)
        write_records(folder, options.records)
        num_done = options.records * 9 // 10 // BATCH_SIZE
        ckpt_path = write_checkpoint(folder, num_done)
        seconds: dict[str, list[float]] = {"resumed in place": [], "reading again": [], "first step of a new run": []}
        for _ in range(options.rounds):
            for label, kind, path in (
                ("first step of a new run", LlavaDataModule, None),
                ("resumed in place", LlavaDataModule, ckpt_path),
                ("reading again", ReplayDataModule, ckpt_path),
            ):
                taken, trainer = run(folder, kind, options.workers, path)
                assert trainer.global_step == (num_done + 1 if path else 1)
                seconds[label].append(taken)
                print(f"{label}: {taken:.2f} s", file=sys.stderr, flush=True)
    own = median(seconds["resumed in place"])
    print("| start | median, s | ratio |\n| --- | --- | --- |")
    for label, values in seconds.items():
        print(f"| {label} | {median(values):.2f} | {median(values) / own:.1f} |")


if __name__ == "__main__":
    main()
