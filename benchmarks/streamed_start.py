"""B12: the memory in which a divided model is built, beside building it whole on each rank and dividing it then.

    python benchmarks/streamed_start.py

A random decoder is written in bfloat16, in several files, and built on ranks that are processes of this machine: to be
trained in full, in float32, or frozen, in bfloat16. Counted is a process's own memory (anonymous, `RssAnon`), at its
highest and at the end, beyond what it had before; pages of the files, which belong to the system's cache and which the
ranks share, are counted apart (`RssFile`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from llava_pl.export.model_config import DecoderConfig, VisionEncoderConfig
from llava_pl.training.module import LlavaModule
from llava_pl.training.optim import OptimConfig
from llava_pl.training.sharding import shard

WAYS = ("whole, then divided", "streamed")
HELD = {"trained, float32": ("finetune", "float32"), "frozen, bfloat16": ("align", "bfloat16")}


def make_parts(folder: Path, num_layers: int) -> int:
    """Write an encoder that weighs nothing and a decoder; return the number of its weights."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8
    )
    CLIPVisionModel(vision).save_pretrained(folder / "encoder")
    decoder = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=num_layers,
            num_attention_heads=16,
            vocab_size=32000,
        )
    )
    decoder.save_pretrained(folder / "decoder", max_shard_size="500MB")
    return sum(parameter.numel() for parameter in decoder.parameters())


def read_memory(kind: str) -> int:
    """Return memory of this process in MB."""
    return int(Path("/proc/self/status").read_text().partition(f"{kind}:")[2].split()[0]) // 1024


class Peak(threading.Thread):
    """The highest amount of a process's own memory, looked at every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.highest = read_memory("RssAnon")
        self.file_before = self.file = read_memory("RssFile")

    def run(self) -> None:
        """Go on looking."""
        while True:
            self.highest = max(self.highest, read_memory("RssAnon"))
            self.file = max(self.file, read_memory("RssFile"))
            time.sleep(0.003)


def run_rank(way: str, held: str, folder: Path, rank: int, num_ranks: int) -> dict[str, float]:
    """Build the model on one rank, and return what that took."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{tempfile.gettempdir()}/{folder.name}", rank=rank, world_size=num_ranks)
    mesh = init_device_mesh("cpu", (num_ranks,))
    stage, dtype = HELD[held]
    module = LlavaModule(
        stage=stage,
        vision_encoder=VisionEncoderConfig(str(folder.parent / "encoder")),
        decoder=DecoderConfig(str(folder.parent / "decoder")),
        optim=OptimConfig(learning_rate=1e-3),
        frozen_dtype=dtype,
    )
    torch.nn.Linear(8, 8)(torch.ones(1, 8)).sum().backward()  # threads and buffers that are made once
    dist.barrier()
    peak, start = Peak(), time.perf_counter()
    peak.start()
    if way == "streamed":
        strategy = SimpleNamespace(
            root_device="cpu", divides_weights=True, divide=lambda *args: shard(args[0], mesh, args[1])
        )
        module._trainer = SimpleNamespace(strategy=strategy, datamodule=None, local_rank=1)  # type: ignore[assignment]
    module.configure_model()
    if way != "streamed":
        shard(module.model, mesh)
    seconds = time.perf_counter() - start
    time.sleep(0.05)
    found = {
        "peak": peak.highest - peak.before,
        "held": read_memory("RssAnon") - peak.before,
        "file": peak.file - peak.file_before,
        "seconds": seconds,
    }
    dist.barrier()
    return found


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--held", choices=HELD, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run_rank(options.way, options.held, options.folder, options.rank, options.ranks)))
        return
    with tempfile.TemporaryDirectory() as name:
        num_weights = make_parts(Path(name), options.layers)
        print(f"{num_weights / 1e6:.0f} million weights, {options.ranks} ranks.\n")
        print("| held | way | highest, MB per rank | at the end | pages of files, highest | s |")
        print("| --- | --- | --- | --- | --- | --- |")
        for held in HELD:
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for turn in range(options.rounds):
                for number, way in enumerate(WAYS):
                    store = Path(name) / f"streamed_start-{Path(name).name}-{held[:5]}-{turn}-{number}"
                    words = [sys.executable, __file__, "--way", way, "--held", held, "--folder", str(store)]
                    words += ["--ranks", str(options.ranks), "--rank"]
                    ranks = [
                        subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, text=True)
                        for rank in range(options.ranks)
                    ]
                    found[way] += [json.loads(process.communicate()[0].splitlines()[-1]) for process in ranks]
                    print(held, way, found[way][-options.ranks :], file=sys.stderr, flush=True)
            for way, runs in found.items():
                row = [max(run[key] for run in runs) for key in ("peak", "held", "file")]
                seconds = median(run["seconds"] for run in runs)
                print(f"| {held} | {way} | {row[0]:.0f} | {row[1]:.0f} | {row[2]:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
