"""B1: of the tokens that devices compute or wait for, how many are part of a sample, under each way of ordering.

    python benchmarks/padding.py

Exact counts, nothing is timed. Lengths are drawn to resemble what is known of the 665K records of LLaVA-1.5's second
stage: 94 % with a picture of 576 tokens, median about 750, at most 2048. A step lasts as long as its slowest rank, and
all ranks are counted for that long. The work of a padded micro batch is its rows times its longest row, that of a
packed one its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, quantiles

import numpy as np
import torch

from llava_pl.data.ordering import deal_packed, deal_rows, modality_length_order, shuffled_order

NUM_SAMPLES = 20_480
GLOBAL_BATCH_SIZE = 128
NUM_RANKS = 8
TOKEN_BUDGET = 16_384
SEEDS = (0, 1, 2)

Steps = list[list[list[list[int]]]]
"""The indices of a micro batch, for each micro batch of each rank of each step."""


def draw_lengths(seed: int) -> tuple[list[int], list[int]]:
    """Return the tokens of each sample, and its words, negative without a picture."""
    rng = np.random.default_rng(seed)
    has_picture = rng.random(NUM_SAMPLES) < 624_610 / 665_298
    text = np.where(
        has_picture, rng.lognormal(np.log(180), 0.75, NUM_SAMPLES), rng.lognormal(np.log(650), 0.8, NUM_SAMPLES)
    )
    tokens = np.clip(text + 576 * has_picture, 20, 2048).astype(int)
    words = np.maximum(1, text / rng.uniform(1.2, 1.5, NUM_SAMPLES)).astype(int)
    return tokens.tolist(), np.where(has_picture, words, -words).tolist()


def cut(indices: Sequence[int], size: int) -> list[list[int]]:
    """Return the indices in pieces of one size."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


def share_efficiency(steps: Steps, work: Callable[[list[int]], int], tokens: Sequence[int]) -> float:
    """Return useful tokens over those that all ranks compute, or could compute while they wait."""
    useful = sum(tokens[i] for step in steps for rank in step for rows in rank for i in rows)
    return useful / sum(NUM_RANKS * max(sum(map(work, rank)) for rank in step) for step in steps)


def measure(seed: int, micro_batch_size: int) -> dict[str, float]:
    """Return the share of useful tokens of each way, by its name."""
    tokens, words = draw_lengths(seed)
    num_micro_batches = GLOBAL_BATCH_SIZE // micro_batch_size
    generator = torch.Generator().manual_seed(seed)
    drawn = cut(shuffled_order(NUM_SAMPLES, generator), GLOBAL_BATCH_SIZE)
    generator.manual_seed(seed)
    original = cut(modality_length_order(words, micro_batch_size, num_micro_batches, generator), GLOBAL_BATCH_SIZE)

    def padded(rows: list[int]) -> int:
        return len(rows) * max(tokens[index] for index in rows)

    def packed(rows: list[int]) -> int:
        return sum(tokens[index] for index in rows)

    ways: dict[str, tuple[Steps, Callable[[list[int]], int]]] = {
        "shuffled, padded": (
            [[cut(batch[rank::NUM_RANKS], micro_batch_size) for rank in range(NUM_RANKS)] for batch in drawn],
            padded,
        ),
        "the original's sampler, padded": (
            [[cut(batch, micro_batch_size)[rank::NUM_RANKS] for rank in range(NUM_RANKS)] for batch in original],
            padded,
        ),
        "balanced, padded": (
            [
                [
                    cut(rank, micro_batch_size)
                    for rank in deal_rows(batch, tokens, num_ranks=NUM_RANKS, micro_batch_size=micro_batch_size)
                ]
                for batch in drawn
            ],
            padded,
        ),
        "balanced, packed": (
            [deal_packed(batch, tokens, num_ranks=NUM_RANKS, token_budget=TOKEN_BUDGET) for batch in drawn],
            packed,
        ),
    }
    for steps, _ in ways.values():
        assert sorted(i for step in steps for rank in step for rows in rank for i in rows) == list(range(NUM_SAMPLES))
    return {name: share_efficiency(steps, work, tokens) for name, (steps, work) in ways.items()}


def main() -> None:
    """Print a Markdown table."""
    tokens, _ = draw_lengths(SEEDS[0])
    cuts = quantiles(tokens, n=20)
    print(f"lengths: mean {mean(tokens):.0f}, median {cuts[9]:.0f}, 95th percentile {cuts[18]:.0f}\n")
    sizes = (16, 8, 4)
    titles = [f"micro batch {size} x {GLOBAL_BATCH_SIZE // NUM_RANKS // size}" for size in sizes]
    print("| order | " + " | ".join(titles) + " |")
    print("| --- |" + " --- |" * len(sizes))
    results = {size: [measure(seed, size) for seed in SEEDS] for size in sizes}
    for name in results[sizes[0]][0]:
        cells = [f"{mean(result[name] for result in results[size]):.3f}" for size in sizes]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
