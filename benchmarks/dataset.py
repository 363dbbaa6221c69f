"""B2: samples per second through the dataset, beside the original's dataset and the processor of transformers.

    python benchmarks/dataset.py --tokenizer LLAMA --llava_checkout LLAVA --llava_python PYTHON

LLAMA is a folder with LLaMA's `tokenizer.model`, LLAVA a checkout of haotian-liu/LLaVA, PYTHON an interpreter with the
packages that it pins; without the last two, its rows are left out. Records are 640 x 480 JPEGs with conversations of
five questions and answers. One process of one thread fetches all of them, each way in turn, 20 records at a time; the
original has a process of its own, which waits while the others work.

Before anything is timed, the pixel values of all ways must be equal to the last bit, and ours and the original's ids
and labels too. The processor of transformers does less: its prompts are put together beforehand, and it makes no
labels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import Peer, compare, pin
from PIL import Image
from transformers import AutoTokenizer, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_pl.data.clip_pixels import look_up
from llava_pl.data.conversation import render_conversation
from llava_pl.data.dataset import RecordDataset
from llava_pl.data.encoded import EncodedRecords
from llava_pl.data.image import ImageTransform, pad_to_square
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.picture_files import load_image
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.store_cache import open_store
from llava_pl.data.tokenization import encode_conversation
from llava_pl.types import Sample

NUM_WARM_UPS = 2
SLICE = 20
"""Records that one way fetches before it is the next one's turn: a slow moment of the machine hits all of them."""
NUM_EXCHANGES = 5
VOCABULARY = (
    "the a of and in on with is are there two three people person man woman child dog cat street table chair window "
    "building car bicycle tree grass sky water plate food cup red blue green white black large small wooden standing "
    "sitting walking holding wearing looking near behind next front left right background appears might also image "
    "because while possibly scene, several various various, outdoors, kitchen, umbrella, refrigerator, intersection,"
)

Seconds = tuple[float, float]
"""Wall and CPU time."""


def write_picture(path: Path, seed: int) -> None:
    """Write a JPEG of smooth areas, edges and noise, about as large as a photograph of that size."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    patches = Image.fromarray(rng.integers(0, 60, (24, 32, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.NEAREST
    )
    levels = np.asarray(smooth).astype(np.float64) * 0.75 + np.asarray(patches)
    levels += rng.normal(0, rng.uniform(4, 8), (480, 640, 1))
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(path, quality=88)


def write_records(folder: Path, num_records: int) -> None:
    """Write the pictures, and a LLaVA JSON file about them."""
    draw, words = random.Random(0), VOCABULARY.split()

    def sentence(fewest: int, most: int, end: str) -> str:
        return " ".join(draw.choices(words, k=draw.randint(fewest, most))).strip(",").capitalize() + end

    records = []
    for index in range(num_records):
        write_picture(folder / f"{index}.jpg", index)
        turns = []
        for exchange in range(NUM_EXCHANGES):
            mark = "<image>\n" if exchange == 0 else ""
            turns.append({"from": "human", "value": mark + sentence(6, 14, "?")})
            turns.append({"from": "gpt", "value": " ".join(sentence(8, 18, ".") for _ in range(draw.randint(1, 4)))})
        records.append({"id": str(index), "image": f"{index}.jpg", "conversations": turns})
    (folder / "records.json").write_text(json.dumps(records))


def fetch_values(dataset: RecordDataset, index: int) -> tuple[Sample, torch.Tensor]:
    """Return a sample of ours and its pixel values, which in a run are looked up where the model runs."""
    sample = dataset[index]
    return sample, look_up(sample.pixel_values, sample.value_of_level)


def sha256(pixel_values: torch.Tensor) -> str:
    """Return the hash of the values of one picture."""
    return hashlib.sha256(pixel_values.numpy().tobytes()).hexdigest()


def time_fetching(fetch: Callable[[int], object], indices: range) -> Seconds:
    """Return the time of fetching records, one after the other."""
    wall, cpu = time.perf_counter(), time.process_time()
    for index in indices:
        fetch(index)
    return time.perf_counter() - wall, time.process_time() - cpu


def time_original(original: Peer, indices: range) -> Seconds:
    """Return the time of the original for the same."""
    measured = original.run_round(start=indices.start, stop=indices.stop)
    return measured.wall, measured.cpu


def make_transformers(folder: Path, tokenizer_path: str, dataset: RecordDataset) -> Callable[[int], Any]:
    """Return what fetches a record through the processor of transformers.

    The picture is read and squared as the original does it, because the processor does neither.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    prompts = [
        "".join(segment.text for segment in render_conversation(record.turns, "vicuna_v1", has_images=True))
        for record in dataset.records
    ]
    colour = dataset.encoder.image_transform.pad_colour

    def fetch(index: int) -> Any:  # noqa: ANN401
        with Image.open(folder / f"{index}.jpg") as picture:
            square = pad_to_square(picture.convert("RGB"), colour)
        return processor(images=square, text=prompts[index], return_tensors="pt")

    return fetch


def check_equal(
    dataset: RecordDataset, cached: RecordDataset, by_transformers: Callable[[int], Any], original: Peer | None
) -> None:
    """Stop unless all ways give the same."""
    # One position per picture, as in the original, where the model makes room for the rest.
    short = RecordDataset(dataset.records, replace(dataset.encoder, num_image_tokens=1))
    own, values = zip(*(fetch_values(short, index) for index in range(len(short))), strict=True)
    pixels = [sha256(pictures[0]) for pictures in values]
    num_supervised = sum(int((sample.labels >= 0).sum()) for sample in own)
    num_tokens = 0
    for index in range(len(dataset)):
        sample, again = dataset[index], cached[index]
        assert torch.equal(sample.input_ids, again.input_ids)
        assert torch.equal(sample.labels, again.labels)
        num_tokens += len(sample.input_ids)
    print(f"per record: {num_tokens / len(own):.0f} tokens, {num_supervised / len(own):.0f} of them supervised")
    assert pixels == [sha256(by_transformers(index)["pixel_values"][0]) for index in range(len(own))]
    if original is not None:
        expected = original.ask(do="read")["samples"]
        assert pixels == [sample[2] for sample in expected]
        assert [[sample.input_ids.tolist(), sample.labels.tolist()] for sample in own] == [s[:2] for s in expected]


def run_round(ways: dict[str, Callable[[range], Seconds]], num_records: int) -> dict[str, Seconds]:
    """Return the time that each way needs for all records, fetched in turn, slice by slice."""
    spent = dict.fromkeys(ways, (0.0, 0.0))
    for number, start in enumerate(range(0, num_records, SLICE)):
        for way in ways if number % 2 == 0 else reversed(ways):
            wall, cpu = ways[way](range(start, min(start + SLICE, num_records)))
            spent[way] = (spent[way][0] + wall, spent[way][1] + cpu)
    return spent


def print_table(rounds: dict[str, list[Seconds]], num_records: int) -> None:
    """Print a row for each way; ratios are of the time that ours takes."""
    print("\n| way | samples/s | time / ours | 95 % | CPU, ms per sample | CPU time / ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    own_wall, own_cpu = (list(values) for values in zip(*rounds["ours"], strict=True))
    for way, seconds in rounds.items():
        wall, cpu = (list(values) for values in zip(*seconds, strict=True))
        ratio = compare(own_wall, wall)
        cells = [
            way,
            f"{num_records / median(wall):.1f}",
            f"{ratio.value:.2f}",
            "" if way == "ours" else f"{ratio.low:.2f} to {ratio.high:.2f}",
            f"{1000 * median(cpu) / num_records:.2f}",
            f"{median(cpu) / median(own_cpu):.2f}",
        ]
        print(f"| {' | '.join(cells)} |")


def print_parts(dataset: RecordDataset, folder: Path) -> None:
    """Print what the steps of ours cost."""
    encoder, num_records = dataset.encoder, len(dataset)
    pictures = [load_image(folder / f"{index}.jpg") for index in range(num_records)]
    parts: dict[str, Callable[[int], object]] = {
        "read the record": lambda index: dataset.records[index],
        "read the picture": lambda index: load_image(folder / f"{index}.jpg"),
        "square, resize": lambda index: encoder.image_transform.prepare(pictures[index]),
        "tokenize": lambda index: encode_conversation(
            dataset.records[index].turns,
            encoder.tokenizer,
            template=encoder.template,
            num_image_tokens=encoder.num_image_tokens,
        ),
        "all, in a worker": lambda index: dataset[index],
        "all": lambda index: fetch_values(dataset, index),
    }
    print("\n| step of ours | CPU, ms per sample |\n| --- | --- |")
    for name, part in parts.items():
        milliseconds = median(1000 * time_fetching(part, range(num_records))[1] / num_records for _ in range(5))
        print(f"| {name} | {milliseconds:.2f} |")


def main() -> None:
    """Print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder with LLaMA's tokenizer.model")
    parser.add_argument("--llava_checkout", help="folder of haotian-liu/LLaVA")
    parser.add_argument("--llava_python", help="interpreter with the packages of haotian-liu/LLaVA")
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pin(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder, options.records)
        sizes = [path.stat().st_size / 1000 for path in folder.glob("*.jpg")]
        print(f"{options.records} JPEGs of {min(sizes):.0f} to {max(sizes):.0f} KB, median {median(sizes):.0f} KB")
        encoder = SampleEncoder(
            load_tokenizer(options.tokenizer), ImageTransform(), folder, num_image_tokens=576, max_length=2048
        )
        store = open_store(folder / "records.json", folder / "cache")
        dataset = RecordDataset(store, encoder)
        cached = RecordDataset(store, encoder, tokens=EncodedRecords.of(store, encoder, has_tokens=True).tokens)
        by_transformers = make_transformers(folder, options.tokenizer, dataset)
        original = None
        ways: dict[str, Callable[[range], Seconds]] = {
            "ours": lambda indices: time_fetching(partial(fetch_values, dataset), indices),
            "ours, tokens cached": lambda indices: time_fetching(partial(fetch_values, cached), indices),
            "transformers' processor, no labels": lambda indices: time_fetching(by_transformers, indices),
        }
        if options.llava_checkout and options.llava_python:
            records = str(folder / "records.json")
            script = str(Path(__file__).with_name("original_dataset.py"))
            command = [options.llava_python, script, options.llava_checkout, records, str(folder), options.tokenizer]
            original = Peer(command, num_threads=1)
            ways["the original's dataset"] = lambda indices: time_original(original, indices)
        check_equal(dataset, cached, by_transformers, original)
        rounds: dict[str, list[Seconds]] = {way: [] for way in ways}
        for number in range(NUM_WARM_UPS + options.rounds):
            for way, seconds in run_round(ways, len(dataset)).items():
                if number >= NUM_WARM_UPS:
                    rounds[way].append(seconds)
                print(f"round {number}, {way}: {seconds[0]:.2f} s", file=sys.stderr, flush=True)
        if original is not None:
            original.close()
        print_table(rounds, len(dataset))
        print_parts(dataset, folder)


if __name__ == "__main__":
    main()
