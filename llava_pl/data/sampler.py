"""Who reads which sample when: a function of seed, epoch, lengths and global batch, which can be entered anywhere.

In: the number of ranks and the lengths of samples. Out: the indices that one rank reads, in order.

Both samplers are torch's ``DistributedSampler`` by type: Lightning replaces any other one in a distributed run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from math import ceil
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, DistributedSampler

from llava_pl.data.ordering import Grouping, deal_packed, deal_rows, length_order, modality_length_order, shuffled_order
from llava_pl.types import InputError


class ResumableSampler(DistributedSampler[int]):
    """The training order of one rank, in which ``start`` samples of this rank are already done.

    Also used on one device: Lightning tells it the epoch, and the order then depends on nothing else. The k-th global
    batch holds the same samples on any number of ranks, as long as its size stays the same.

    As with torch's sampler, and so that all ranks take equally many steps, the first samples of the order are repeated
    at its end until the ranks can share it equally: at most R - 1 on R ranks. (The original fills up the last micro
    batch of every rank.)

    Args:
        dataset: What is sampled; only its length counts.
        num_replicas: R, the ranks.
        rank: This one.
        seed: Of the shuffle, to which the epoch is added.
        grouping: How samples are ordered; see `ordering.Grouping`.
        micro_batch_size: Samples per rank and forward pass.
        num_micro_batches: Micro batches that a rank accumulates in a step.
        lengths: Returns the length of each sample, asked for once and only by a grouping other than "none"; tokens, or
            for "modality_length" words, negative without a picture.
    """

    start = 0

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_replicas: int,
        rank: int,
        seed: int = 0,
        grouping: Grouping = "none",
        micro_batch_size: int = 1,
        num_micro_batches: int = 1,
        lengths: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed)
        assert grouping == "none" or lengths is not None
        self.num_dataset = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not promise a length
        self.grouping = grouping
        self.micro_batch_size = micro_batch_size
        self.num_micro_batches = num_micro_batches
        self._measure = lengths

    def __iter__(self) -> Iterator[int]:
        return self._go_through(self._fill(self._draw()), self.start)

    @cached_property
    def lengths(self) -> Sequence[int]:
        """The length of each sample.

        Raises:
            InputError: There are more or fewer lengths than samples.
        """
        assert self._measure is not None
        lengths = self._measure()
        if len(lengths) != self.num_dataset:
            raise InputError(f"lengths: expected one for each of {self.num_dataset} samples, found {len(lengths)}")
        return lengths

    @property
    def order_hash(self) -> str:
        """What tells the order of this epoch, that of all ranks together, from another one: sixteen hex digits."""
        return blake2b(np.asarray(self._draw(), dtype="<i8").tobytes(), digest_size=8).hexdigest()

    def _draw(self) -> list[int]:
        """Return the order of all ranks together."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.grouping in ("none", "balanced"):
            return shuffled_order(self.num_dataset, generator)
        draw = length_order if self.grouping == "length" else modality_length_order
        return draw(self.lengths, self.micro_batch_size, self.num_replicas * self.num_micro_batches, generator)

    def _fill(self, order: list[int]) -> list[int]:
        """Return the order with its first samples repeated at its end, so that ranks share it equally."""
        while len(order) < self.total_size:
            order += order[: self.total_size - len(order)]
        return order

    def count_positions(self, num_tokens: Sequence[int]) -> Iterator[int]:
        """Yield the positions that each micro batch of this epoch has on any rank: its rows times the longest one.

        Args:
            num_tokens: The tokens of each sample.
        """
        order = self._fill(self._draw())
        for first in range(0, len(order), self._dealt_at_once * self.num_replicas):
            for rows in self._deal(order[first : first + self._dealt_at_once * self.num_replicas]):
                for start in range(0, len(rows), self.micro_batch_size):
                    lengths = [num_tokens[index] for index in rows[start : start + self.micro_batch_size]]
                    yield len(lengths) * max(lengths)

    @property
    def _dealt_at_once(self) -> int:
        """Samples of each rank that are dealt together: a whole step by a balanced deal, which looks at all of it."""
        return self.micro_batch_size * (self.num_micro_batches if self.grouping == "balanced" else 1)

    def _go_through(self, order: Sequence[int], start: int) -> Iterator[int]:
        size = self._dealt_at_once
        for first in range(start - start % size, self.num_samples, size):
            shared = order[first * self.num_replicas : (first + size) * self.num_replicas]
            yield from self._deal(shared)[self.rank][max(0, start - first) :]

    def _deal(self, shared: Sequence[int]) -> Sequence[Sequence[int]]:
        """Return for each rank its part of what all ranks read at a time."""
        ranks = range(self.num_replicas)
        if self.grouping == "none":
            return [shared[rank :: self.num_replicas] for rank in ranks]
        if self.grouping == "balanced":
            return deal_rows(shared, self.lengths, num_ranks=self.num_replicas, micro_batch_size=self.micro_batch_size)
        size = len(shared) // self.num_replicas
        return [shared[rank * size : (rank + 1) * size] for rank in ranks]


class PackedSampler(ResumableSampler):
    """The micro batches of one rank for packed rows: lists of indices of any length, ``start`` of which are done.

    A loader's batch sampler. The global batches are those of `ResumableSampler` with the same grouping, "none" and
    "balanced" being one: a packed deal is always balanced. Every rank gets as many micro batches as with padded rows.
    """

    def __len__(self) -> int:
        return ceil(self.num_samples / self.micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]  # torch's type promises single indices
        first_step, done = divmod(self.start, self.num_micro_batches)
        for dealt in self._deal_steps(first_step):
            yield from dealt[self.rank][done:]
            done = 0

    def count_positions(self, num_tokens: Sequence[int]) -> Iterator[int]:
        """Yield the positions that each micro batch of this epoch has on any rank: all its tokens.

        Args:
            num_tokens: The tokens of each sample.
        """
        for dealt in self._deal_steps(0):
            yield from (sum(num_tokens[index] for index in rows) for rank in dealt for rows in rank)

    def _deal_steps(self, first_step: int) -> Iterator[list[list[list[int]]]]:
        """Yield for each step the micro batches of each rank."""
        order = self._fill(self._draw())
        size = self.micro_batch_size * self.num_micro_batches * self.num_replicas
        for first in range(first_step * size, len(order), size):
            shared = order[first : first + size]
            num_micro_batches = ceil(len(shared) / self.num_replicas / self.micro_batch_size)
            yield deal_packed(shared, self.lengths, num_ranks=self.num_replicas, num_micro_batches=num_micro_batches)


def count_epochs(max_epochs: int | None, max_steps: int, sampler: ResumableSampler) -> int:
    """Return how many epochs a trainer will begin, as far as it is bounded; at least one.

    Args:
        max_epochs: Of the trainer; -1 or None is no bound.
        max_steps: Of the trainer; -1 is no bound.
        sampler: Of any rank.
    """
    steps_per_epoch = ceil(sampler.num_samples / sampler.micro_batch_size / sampler.num_micro_batches)
    bounds = (max_epochs or -1, ceil(max_steps / steps_per_epoch))
    return min((bound for bound in bounds if bound > 0), default=1)


def check_budget(
    sampler: ResumableSampler, token_budget: int, *, num_tokens: Sequence[int], epochs: Iterable[int]
) -> None:
    """Check that no micro batch of some epochs has more positions than a device is to hold.

    Lightning accumulates the same number of micro batches in each step, so a budget cannot be kept by taking one more
    for a long step; it is kept by telling, before the first step, how many each step needs.

    Args:
        sampler: Of any rank; it is left at the epoch where it was.
        token_budget: The most positions of a micro batch, image tokens and padding included.
        num_tokens: The tokens of each sample.
        epochs: Those that the run will go through.

    Raises:
        InputError: A micro batch has more.
    """
    own_epoch, largest = sampler.epoch, (0, 0)
    for epoch in epochs:
        sampler.set_epoch(epoch)
        largest = max(largest, (max(sampler.count_positions(num_tokens), default=0), -epoch))
    sampler.set_epoch(own_epoch)
    if largest[0] > token_budget:
        factor = ceil(largest[0] / token_budget)
        others = "" if isinstance(sampler, PackedSampler) else ", or choose data.is_packed true"
        raise InputError(
            f"data.token_budget: expected at most {token_budget:,} positions in a micro batch, found one of "
            f"{largest[0]:,} in epoch {-largest[1]}; divide data.batch_size ({sampler.micro_batch_size}) by about "
            f"{factor} and multiply trainer.accumulate_grad_batches ({sampler.num_micro_batches}) by as much, which "
            f"keeps the global batch{others}"
        )


class EachOnceSampler(DistributedSampler[int]):
    """The samples of one rank in evaluation: every sample on exactly one rank, in order or in an order that is given.

    All ranks have equally many batches, because where weights are gathered in each forward pass (FSDP, ZeRO-3) a rank
    with one more would wait forever. Batches are made smaller for that where it helps; otherwise the ranks with a
    sample less get an index beyond the end, for a sample that counts for nothing (see `data/eval_loader.py`). A given
    order has neighbours that belong together: each rank gets whole batches of it, and a share of the last ones.

    Args:
        dataset: What is sampled; only its length counts.
        num_replicas: R, the ranks.
        rank: This one.
        batch_size: Samples in a batch at most.
        order: All indices, as they are to be gone through; None for their own order, dealt in turn.

    Attributes:
        batch_size: Samples in a batch: the largest number that gives all ranks equally many batches, if there is one.

    >>> [EachOnceSampler(range(num), num_replicas=2, rank=0, batch_size=4).batch_size for num in (10, 9)]
    [4, 3]
    >>> [list(EachOnceSampler(range(3), num_replicas=2, rank=rank, batch_size=1)) for rank in (0, 1)]
    [[0, 2], [1, 4]]
    >>> order = [4, 3, 2, 1, 0]
    >>> [list(EachOnceSampler(order, num_replicas=2, rank=rank, batch_size=2, order=order)) for rank in (0, 1)]
    [[4, 3, 5], [2, 1, 0]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_replicas: int,
        rank: int,
        batch_size: int,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.total_size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not promise a length
        if self.total_size == 0:
            raise InputError("data: nothing to evaluate; expected at least one sample")
        self.batch_size = batch_size
        self._indices = self._deal_in_turn() if order is None else self._deal_batches(order)
        self.num_samples = len(self._indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def _deal_in_turn(self) -> list[int]:
        """Return this rank's indices, one of R; the batch size may become smaller."""
        smaller, larger = self.total_size // self.num_replicas, ceil(self.total_size / self.num_replicas)
        sizes = range(self.batch_size, 0, -1)
        alike = (size for size in sizes if ceil(smaller / size) == ceil(larger / size))
        self.batch_size = next(alike, self.batch_size)
        indices = list(range(self.rank, self.total_size, self.num_replicas))
        if ceil(len(indices) / self.batch_size) < ceil(larger / self.batch_size):
            indices.append(self.total_size + self.rank % self.total_size)
        return indices

    def _deal_batches(self, order: Sequence[int]) -> list[int]:
        """Return this rank's indices, a batch of each R in a row."""
        indices: list[int] = []
        for start in range(0, len(order), self.batch_size * self.num_replicas):
            shared = order[start : start + self.batch_size * self.num_replicas]
            first, end = (len(shared) * rank // self.num_replicas for rank in (self.rank, self.rank + 1))
            indices += shared[first:end] or [self.total_size + shared[-1]]
        return indices
