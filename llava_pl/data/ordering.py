"""Lengths to orders: which samples meet in a global batch, and which rank and micro batch each falls to.

In: a length for each sample and a random generator. Out: indices. Everything here is a function of its arguments:
no file, no process, no epoch is known. `sampler` puts an epoch together from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Literal

import torch

from llava_pl.types import InputError

Grouping = Literal["none", "length", "modality_length", "balanced"]
"""How the samples of an epoch are ordered:

* "none": shuffled.
* "length": shuffled, then within each global batch sorted and spread as the original does.
* "modality_length": the same for samples with a picture and without one apart, as the original trains.
* "balanced": the global batches of "none", their samples dealt so that ranks wait and pad less.
"""


def name_order(grouping: Grouping, seed: int) -> str:
    """Return what decides which samples meet in a global batch, and when; a deal decides only who gets them.

    >>> name_order("balanced", 3)
    'shuffled, seed 3'
    """
    return f"{'shuffled' if grouping in ('none', 'balanced') else grouping}, seed {seed}"


def shuffled_order(num_samples: int, generator: torch.Generator) -> list[int]:
    """Return the numbers below ``num_samples`` in random order, as torch's ``DistributedSampler`` draws it."""
    order: list[int] = torch.randperm(num_samples, generator=generator).tolist()
    return order


def length_order(
    lengths: Sequence[int], micro_batch_size: int, num_micro_batches: int, generator: torch.Generator
) -> list[int]:
    """Return a random order whose global batches are each sorted and spread over their micro batches.

    LLaVA: a global batch is both what is drawn at random and what is sorted, so that a micro batch is no more uniform
    than a random one; only the sums of the micro batches come close to each other.

    Args:
        lengths: One for each sample.
        micro_batch_size: Samples per device and forward pass.
        num_micro_batches: Micro batches of a global batch: devices times accumulation.
        generator: Source of the shuffle.
    """
    order = shuffled_order(len(lengths), generator)
    size = micro_batch_size * num_micro_batches
    result: list[int] = []
    for start in range(0, len(order), size):
        ranked = sorted(order[start : start + size], key=lengths.__getitem__, reverse=True)
        for chunk in spread_evenly(ranked, lengths, num_micro_batches):
            result += chunk
    return result


def modality_length_order(
    lengths: Sequence[int],
    micro_batch_size: int,
    num_micro_batches: int,
    generator: torch.Generator,
    *,
    batch_generator: torch.Generator | None = None,
) -> list[int]:
    """Return the order that the original trains in: a global batch holds samples of one modality alone.

    What is left of both modalities after their whole global batches comes last, in the order of the records.

    LLaVA: records of a single modality are ordered by `length_order` as they are. Text alone has negative lengths, so
    it is sorted from short to long, and each sample falls to the fullest micro batch that has room.

    Args:
        lengths: One for each sample, negative without a picture.
        micro_batch_size: As for `length_order`.
        num_micro_batches: As for `length_order`.
        generator: Source of every shuffle.
        batch_generator: Source of the order of the global batches, and of everything where there is one modality;
            by default the same. The original, handed a generator, uses it for these alone.

    Raises:
        InputError: A length is zero, which belongs to no modality.
    """
    if 0 in lengths:
        raise InputError(
            f"grouping 'modality_length': sample {list(lengths).index(0)} has length 0; expected at least one word"
        )
    pictured = [index for index, length in enumerate(lengths) if length > 0]
    texts = [index for index, length in enumerate(lengths) if length < 0]
    if not pictured or not texts:
        return length_order(lengths, micro_batch_size, num_micro_batches, batch_generator or generator)
    size = micro_batch_size * num_micro_batches
    batches: list[list[int]] = []
    rest: list[int] = []
    for members in (pictured, texts):
        ordered = length_order([abs(lengths[i]) for i in members], micro_batch_size, num_micro_batches, generator)
        chunks = [[members[i] for i in ordered[start : start + size]] for start in range(0, len(ordered), size)]
        batches += chunks[:-1]
        rest += chunks[-1]
    numbers = shuffled_order(len(batches), batch_generator or generator)
    return [index for number in numbers for index in batches[number]] + sorted(rest)


def spread_evenly(indices: Sequence[int], lengths: Sequence[int], num_chunks: int) -> list[list[int]]:
    """Return the indices in chunks of equal size, each index in turn put to the chunk with the smallest sum so far.

    LLaVA: if they cannot be divided equally, lengths do not count, and every ``num_chunks``-th index makes a chunk.

    >>> spread_evenly([0, 1, 2, 3], [9, 5, 3, 1], 2)
    [[0, 3], [1, 2]]
    >>> spread_evenly([0, 1, 2], [9, 5, 3], 2)
    [[0, 2], [1]]
    """
    if len(indices) % num_chunks:
        return [list(indices[start::num_chunks]) for start in range(num_chunks)]
    size = len(indices) // num_chunks
    chunks: list[list[int]] = [[] for _ in range(num_chunks)]
    room = [(0, chunk) for chunk in range(num_chunks)]
    for index in indices:
        load, chunk = heappop(room)
        chunks[chunk].append(index)
        if len(chunks[chunk]) < size:
            heappush(room, (load + lengths[index], chunk))
    return chunks


def deal_rows(
    indices: Sequence[int], lengths: Sequence[int], *, num_ranks: int, micro_batch_size: int
) -> list[list[int]]:
    """Return the samples of each rank for one global batch whose rows are padded, micro batch after micro batch.

    Samples are taken from long to short. Neighbours make a micro batch; of each R micro batches in a row every rank
    gets one, and the largest goes to the rank with the least work so far. Guaranteed, with the work of a micro batch
    taken as its rows times its longest row:

    * every rank gets the same number of samples, cut into micro batches of ``micro_batch_size`` (the last of each rank
      may be smaller, equally on all);
    * no other division into micro batches needs less padding in all, where all have the same size;
    * the work of two ranks differs by no more than that of two micro batches with the same place on two ranks. So
      ranks wait little for each other after each micro batch (sharded weights), and little at the end (DDP).

    With one micro batch per rank there is nothing to even out: the rank with the longest row sets the time.

    Args:
        indices: Of the global batch; a multiple of the number of ranks.
        lengths: One for each sample of the dataset.
        num_ranks: R.
        micro_batch_size: Rows per rank and forward pass.

    >>> deal_rows([0, 1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 50, 60, 70, 80], num_ranks=2, micro_batch_size=2)
    [[7, 6, 1, 0], [5, 4, 3, 2]]
    """
    assert len(indices) % num_ranks == 0
    ranked = sorted(indices, key=lengths.__getitem__, reverse=True)
    dealt: list[list[int]] = [[] for _ in range(num_ranks)]
    work = [0] * num_ranks
    for start in range(0, len(ranked), num_ranks * micro_batch_size):
        row_group = ranked[start : start + num_ranks * micro_batch_size]
        size = len(row_group) // num_ranks
        ranks = sorted(range(num_ranks), key=work.__getitem__)
        for place, rank in enumerate(ranks):
            rows = row_group[place * size : (place + 1) * size]
            dealt[rank] += rows
            work[rank] += size * lengths[rows[0]]
    return dealt


def deal_packed(
    indices: Sequence[int], lengths: Sequence[int], *, num_ranks: int, num_micro_batches: int
) -> list[list[list[int]]]:
    """Return the micro batches of each rank for one global batch whose rows are packed without padding.

    Samples are taken from long to short, each to the micro batch with the fewest tokens; of each R micro batches in a
    row, from full to empty, every rank gets one, the fullest going to the rank with the fewest tokens so far.
    Guaranteed:

    * every rank has the same number of micro batches, so that no rank waits for one that never comes; none is empty;
    * the tokens of two micro batches differ by no more than the shortest sample of the fuller one, those of two ranks
      by no more than the fullest and the emptiest micro batch differ. Numbers of samples are not equal.

    Args:
        indices: Of the global batch; at least one for each micro batch.
        lengths: One for each sample of the dataset, at least 1.
        num_ranks: R.
        num_micro_batches: Micro batches of each rank.

    >>> deal_packed([0, 1, 2, 3, 4, 5], [70, 10, 20, 30, 50, 60], num_ranks=2, num_micro_batches=2)
    [[[0], [3, 2]], [[5], [4, 1]]]
    """
    assert len(indices) >= num_ranks * num_micro_batches
    ranked = sorted(indices, key=lengths.__getitem__, reverse=True)
    chunks = _put_to_emptiest(ranked, lengths, num_ranks * num_micro_batches)
    chunks.sort(key=lambda chunk: sum(lengths[index] for index in chunk), reverse=True)
    dealt: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    work = [0] * num_ranks
    for start in range(0, len(chunks), num_ranks):
        ranks = sorted(range(num_ranks), key=work.__getitem__)
        for rank, chunk in zip(ranks, chunks[start : start + num_ranks], strict=True):
            dealt[rank].append(chunk)
            work[rank] += sum(lengths[index] for index in chunk)
    return dealt


def _put_to_emptiest(indices: Sequence[int], lengths: Sequence[int], num_chunks: int) -> list[list[int]]:
    chunks: list[list[int]] = [[] for _ in range(num_chunks)]
    loads = [(0, chunk) for chunk in range(num_chunks)]
    heapify(loads)
    for index in indices:
        load, chunk = heappop(loads)
        chunks[chunk].append(index)
        heappush(loads, (load + lengths[index], chunk))
    return chunks
