"""G7: samples per second of the loader alone, by number of workers, beside what a GPU consumes in stage `align`.

    python benchmarks/loader.py --workers 0 1 2 4 8 16

Records as in LLaVA's first stage, a picture and a caption, 640 x 480 JPEGs of 90 KB, through `LlavaDataModule` as `fit`
uses it: read, decode, square or crop, tokenize, collate, and hand over between processes. Each number of workers runs
whole epochs in turn with the others; the first, in which workers start, does not count. Nothing consumes the batches.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from statistics import median

from dataset import VOCABULARY, write_picture
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl import LlavaDataModule

CONSUMED = 31.0
"""Samples per second of a 7B in stage `align` on one H100 at half of its peak: the target of G2."""

NUM_PICTURES = 64


def write_data(folder: Path, num_records: int) -> None:
    """Write pictures, records, a tokenizer of words and the settings of CLIP's processor."""
    for number in range(min(NUM_PICTURES, num_records)):
        write_picture(folder / f"{number}.jpg", number)
    words, draw = VOCABULARY.split(), random.Random(0)
    records = [
        {
            "id": str(number),
            "image": f"{number % NUM_PICTURES}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe."},
                {"from": "gpt", "value": " ".join(draw.choices(words, k=draw.randint(7, 20)))},
            ],
        }
        for number in range(num_records)
    ]
    (folder / "records.json").write_text(json.dumps(records))
    known = ["<unk>", "<s>", "</s>", *dict.fromkeys(words)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    ).save_pretrained(folder / "decoder")
    side = {"height": 336, "width": 336}
    CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=side).save_pretrained(folder / "encoder")


def main(arguments: list[str] | None = None) -> dict[int, float]:
    """Print a Markdown table, and return the samples per second of each number of workers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({0, 1, cores // 2, cores}))
    parser.add_argument("--records", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--aspect", choices=["square", "pad"], default="square", help="square in LLaVA's first stage")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, words.records)
        os.environ["LLAVA_PL_CACHE"] = str(folder / "cache")
        loaders = {}
        for number in words.workers:
            data = LlavaDataModule(
                records=folder / "records.json",
                image_folder=folder,
                tokenizer=str(folder / "decoder"),
                image_processor=str(folder / "encoder"),
                num_image_tokens=576,
                template="plain",
                image_aspect=words.aspect,
                batch_size=words.batch_size,
                num_workers=number,
            )
            data.prepare_data()
            data.setup("fit")
            loaders[number] = data.train_dataloader()
        seconds: dict[int, list[float]] = {number: [] for number in words.workers}
        for turn in range(1 + words.rounds):
            for number in words.workers if turn % 2 else reversed(words.workers):
                start = time.perf_counter()
                num_samples = sum(len(batch["ids"]) for batch in loaders[number])
                assert num_samples == words.records
                seconds[number].append(time.perf_counter() - start)
        del loaders  # workers end before their folder goes
    rates = {number: words.records / median(each[1:]) for number, each in seconds.items()}
    print(f"{cores} cores, pictures {words.aspect}, batches of {words.batch_size}, {words.rounds} rounds\n")
    print("| workers | samples/s | times what a GPU consumes in stage align (31) |\n| --- | --- | --- |")
    for number, rate in rates.items():
        print(f"| {number} | {rate:.1f} | {rate / CONSUMED:.2f} |")
    return rates


if __name__ == "__main__":
    main()
