"""B3: the order of an epoch of LLaVA-1.5's second stage, from lengths that lie in the cache and from the texts.

    python benchmarks/epoch_order.py

The original counts the words of every record before each run and orders the epoch by them; `count_words` and
`modality_length_order` compute the same. Interleaved rounds, medians of seconds from the lengths or records in memory
to the first batch of one of eight ranks.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from llava_pl.data.lengths import count_words
from llava_pl.data.ordering import Grouping
from llava_pl.data.sampler import ResumableSampler
from llava_pl.types import Record, Turn

TURNS_PER_RECORD = 10
"""About five exchanges, as in LLaVA-1.5's second stage."""


def make_records(num_records: int) -> list[Record]:
    """Return made-up records, 94 % of them with a picture, that share their texts to fit into memory."""
    draw = random.Random(0)
    texts = [" ".join(["word"] * draw.randint(2, 55)) for _ in range(1000)]
    return [
        Record(
            str(number),
            tuple(Turn("human", text) for text in draw.choices(texts, k=TURNS_PER_RECORD)),
            ("a.jpg",) if draw.random() < 0.94 else (),
        )
        for number in range(num_records)
    ]


def first_batch(grouping: Grouping, lengths: Callable[[], Sequence[int]], num_records: int) -> float:
    """Return the seconds until a sampler names its first sample."""
    start = time.perf_counter()
    sampler = ResumableSampler(
        range(num_records),  # type: ignore[arg-type]  # only its length counts
        num_replicas=8,
        rank=0,
        grouping=grouping,
        micro_batch_size=16,
        lengths=lengths,
    )
    next(iter(sampler))
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=665_298)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    records = make_records(options.records)
    with tempfile.TemporaryDirectory() as folder:
        words, tokens = Path(folder) / "words.npy", Path(folder) / "tokens.npy"
        counts = np.array(count_words(records), dtype=np.int32)
        np.save(words, counts)
        np.save(tokens, abs(counts))
        ways: dict[str, Callable[[], float]] = {
            "words counted, `modality_length`": lambda: first_batch(
                "modality_length", lambda: count_words(records), len(records)
            ),
            "cached, `modality_length`": lambda: first_batch(
                "modality_length", lambda: np.load(words, mmap_mode="r").tolist(), len(records)
            ),
            "cached, `balanced`": lambda: first_batch(
                "balanced", lambda: np.load(tokens, mmap_mode="r").tolist(), len(records)
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, measure in ways.items():
                seconds[name].append(measure())
    peer = median(next(iter(seconds.values())))
    print(f"{options.records} records, medians of {options.rounds} rounds\n")
    print("| order | s | faster by |\n| --- | --- | --- |")
    for name, found in seconds.items():
        print(f"| {name} | {median(found):.2f} | {peer / median(found):.1f} |")


if __name__ == "__main__":
    main()
