"""Whole runs of many epochs with a frozen vision encoder: with pictures encoded in each epoch, and once.

    python benchmarks/feature_cache.py            # an encoder of 4 layers, 4 epochs: minutes
    python benchmarks/feature_cache.py --full     # ViT-L/14 at 224 pixels with all its layers, ScienceQA's 12 epochs

Problems as ScienceQA's, half of them with a picture, and a small decoder that is trained in full; `llava-pl fit` from
its start to its end, in rounds that take turns. `live` has no store, `fills` begins with none and fills it, `finds` has
that of an earlier run, as the next connector of an ablation would. The losses of all steps are equal within 1e-6, or
nothing is timed. The encoder's width is ViT-L's in both sizes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from math import isclose
from pathlib import Path
from statistics import median

from harness import Measured, compare, run_process, run_rounds

WAYS = {"live": "none", "fills": "always", "finds": "worthwhile"}
"""What `data.feature_cache` is."""


@dataclass(frozen=True)
class Size:
    """How much work a run is.

    Args:
        encoder_layers: Of the vision encoder, of which the last is not run.
        num_epochs: Of a run.
        num_problems: Of an epoch, half of them with a picture.
        num_rounds: Runs of each way.
    """

    encoder_layers: int
    num_epochs: int
    num_problems: int
    num_rounds: int


QUICK = Size(encoder_layers=4, num_epochs=4, num_problems=8, num_rounds=3)
FULL = Size(encoder_layers=24, num_epochs=12, num_problems=16, num_rounds=5)


def write_run(folder: Path, size: Size) -> None:
    """Write weights, tokenizer, problems, pictures and a configuration."""
    import torch
    import yaml
    from character_tokenizer import WORDS, make_tokenizer
    from PIL import Image
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=size.encoder_layers,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    CLIPVisionModel(vision).save_pretrained(folder / "encoder")
    CLIPImageProcessorPil().save_pretrained(folder / "encoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    language = LlamaConfig(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(WORDS),
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(language).save_pretrained(folder / "decoder")
    problems = {}
    for number in map(str, range(size.num_problems)):
        problems[number] = dict.fromkeys(("hint", "task", "grade", "topic", "category", "skill", "lecture"), "")
        problems[number] |= {"question": f"Which of these is number {number}?", "choices": ["this one", "that one"]}
        problems[number] |= {"answer": 0, "subject": "natural science", "split": "train", "image": None}
        problems[number]["solution"] = "It is this one, as can be seen. " * 5
        if int(number) % 2:
            problems[number]["image"] = "image.jpg"
            place = folder / "data" / "images" / "train" / number
            place.mkdir(parents=True)
            Image.effect_noise((640, 480), 40 + int(number)).convert("RGB").save(place / "image.jpg")
    (folder / "data" / "problems.json").write_text(json.dumps(problems))
    (folder / "data" / "pid_splits.json").write_text(json.dumps({"train": list(problems), "val": [], "test": []}))
    data = {"root": "data", "batch_size": 4, "num_workers": 1, "image_aspect": "square", "max_length": 2048}
    settings = {
        "model": {
            "stage": "finetune",
            "vision_encoder": {"path": "encoder"},
            "decoder": {"path": "decoder"},
            "projector": "linear",
            "optim": {"learning_rate": 0.001},
        },
        "data": {"class_path": "llava_pl.ScienceQADataModule", "init_args": data},
        "trainer": {
            "max_epochs": size.num_epochs,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def run_way(folder: Path, way: str, num_threads: int) -> Measured:
    """Run it from its start to its end; `fills` has a cache of its own, whose stores are removed first."""
    cache = folder / ("cache" if way != "fills" else "cache-fills")
    if way == "fills":
        shutil.rmtree(cache / "features", ignore_errors=True)
    command = [sys.executable, "-m", "llava_pl", "fit", "--config", "config.yaml", "--run_dir", way]
    options = {"feature_cache": WAYS.get(way, "always"), "cache_dir": str(cache)}
    words = [word for name, value in options.items() for word in (f"--data.init_args.{name}", value)]
    return run_process([*command, *words], num_threads, folder=folder)


def read_losses(folder: Path, way: str) -> list[str]:
    """Return the losses that the last run of a way logged, digit by digit."""
    with (folder / way / "metrics.csv").open() as file:
        return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    size = FULL if options.full else QUICK
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, size)
        for way in ("first", *WAYS):  # the first leaves a store to find
            run_way(folder, way, options.threads)
        losses = read_losses(folder, "live")
        assert losses, "nothing was logged"
        others = [loss for way in ("first", *WAYS) for loss in read_losses(folder, way)]
        pairs = list(zip(others, losses * (len(WAYS) + 1), strict=True))
        # With several threads an encoding may depend, in its last bits, on what else is in its batch.
        assert all(isclose(float(a), float(b), rel_tol=1e-6) for a, b in pairs), "losses differ"
        ways = {way: partial(run_way, folder, way, options.threads) for way in WAYS}
        found = run_rounds(ways, num_rounds=size.num_rounds, num_warm_ups=0)
        num_bytes = sum(path.stat().st_size for path in (folder / "cache" / "features").glob("*/*.features"))
    num_equal = sum(a == b for a, b in pairs)
    print(f"{size}, {options.threads} threads; store {num_bytes:,} bytes")
    print(f"{len(pairs)} losses equal within 1e-6, {num_equal} of them digit by digit")
    print("| run | seconds | CPU seconds | live / this |")
    print("| --- | ---: | ---: | ---: |")
    live = [measured.wall for measured in found["live"]]
    for way, rounds in found.items():
        wall, cpu = (median(getattr(each, name) for each in rounds) for name in ("wall", "cpu"))
        ratio = compare([measured.wall for measured in rounds], live)
        print(f"| {way} | {wall:.1f} | {cpu:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
