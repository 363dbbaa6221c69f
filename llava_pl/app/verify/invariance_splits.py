"""How steps and validation can be split so that every split goes through the same samples.

In: devices, micro batches and samples of a configuration. Out: numbers of ranks, steps and batches that compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lcm

from llava_pl.types import InputError


@dataclass(frozen=True, slots=True)
class Split:
    """How the samples of a step are divided.

    Args:
        num_ranks: Processes, one for each device.
        num_micro_batches: What each of them accumulates.
        batch_size: Samples in a micro batch.

    >>> print(Split(num_ranks=2, num_micro_batches=4, batch_size=8))
    2 ranks x 4 x 8
    """

    num_ranks: int
    num_micro_batches: int
    batch_size: int

    def __str__(self) -> str:
        return f"{self.num_ranks} rank{'s' * (self.num_ranks > 1)} x {self.num_micro_batches} x {self.batch_size}"

    @property
    def step_size(self) -> int:
        """Samples of a step."""
        return self.num_ranks * self.num_micro_batches * self.batch_size

    @property
    def folder(self) -> str:
        """The name of its run's folder."""
        return f"{self.num_ranks}x{self.num_micro_batches}x{self.batch_size}"


@dataclass(frozen=True, slots=True)
class Validation:
    """What each run validates with after its last step.

    Args:
        num_samples: Of each loader, 0 for no validation.
        batch_size: Samples of a batch.
        num_batches: Of all ranks together; None where all samples are validated.
    """

    num_samples: int
    batch_size: int
    num_batches: int | None = None

    def limit(self, num_ranks: int) -> int | float:
        """Return the trainer's `limit_val_batches`."""
        if self.num_batches is None:
            return 1.0 if self.num_samples else 0
        return self.num_batches // num_ranks


def choose_ranks(given: Sequence[int] | None, num_gpus: int) -> list[int]:
    """Return the numbers of ranks to compare with one, the smallest first.

    Args:
        given: What the user asked for; None for as many as there are GPUs, or 2 on a CPU.
        num_gpus: GPUs that may be used; 0 on a CPU.

    Raises:
        InputError: There are fewer GPUs.
    """
    ranks = [max(2, num_gpus)] if given is None else sorted(set(given))
    if 0 < num_gpus < ranks[-1]:
        raise InputError(
            f"--ranks: expected at most the {num_gpus} GPU{'s' * (num_gpus > 1)} to use, found {ranks[-1]}; "
            "--ranks 1 compares accumulation alone, --trainer.accelerator cpu takes processes on the CPU"
        )
    return ranks


def split_step(num_micro_batches: int, batch_size: int, ranks: Sequence[int]) -> tuple[Split, ...]:
    """Return the splits of one step: on one rank, on each number of them, and on one rank with smaller micro batches.

    Args:
        num_micro_batches: Of a step over all ranks; more where the ranks could not share them equally.
        batch_size: Samples of a micro batch; of 1 none can be smaller.
        ranks: Numbers of ranks.

    >>> print(*split_step(4, 8, [2, 4]), sep=", ")
    1 rank x 4 x 8, 2 ranks x 2 x 8, 4 ranks x 1 x 8, 1 rank x 8 x 4
    >>> print(*split_step(3, 1, [2]), sep=", ")
    1 rank x 4 x 1, 2 ranks x 2 x 1
    """
    num_shared = ceil(num_micro_batches / lcm(*ranks)) * lcm(*ranks)
    splits = [Split(1, num_shared, batch_size)]
    splits += [Split(num_ranks, num_shared // num_ranks, batch_size) for num_ranks in ranks if num_ranks > 1]
    factors = (factor for factor in range(2, batch_size + 1) if batch_size % factor == 0)
    splits += [Split(1, num_shared * factor, batch_size // factor) for factor in list(factors)[:1]]
    return tuple(splits)


def count_steps(most: int, num_samples: int, step_size: int) -> int:
    """Return how many steps to take, at least two: in a warm-up the first one moves nothing.

    They are whole ones of one epoch, because ranks fill up the last of an epoch.

    Args:
        most: What the user asked for.
        num_samples: Of an epoch.
        step_size: Samples of a step.

    Raises:
        InputError: There are fewer.
    """
    if num_samples < 2 * step_size:
        raise InputError(
            f"data: {num_samples} samples to train on, expected at least two steps of {step_size}; choose a smaller "
            "data.batch_size or trainer.accumulate_grad_batches"
        )
    return min(most, num_samples // step_size)


def split_validation(num_samples: int, batch_size: int, most: int, ranks: Sequence[int]) -> Validation:
    """Return a validation that goes through the same samples under each split.

    Ranks get samples in turn, so that as many batches in all are the same samples, as long as a loader keeps the size
    of its batches: it takes a smaller one where that gives all ranks equally many (see `EachOnceSampler`).

    Args:
        num_samples: Of a loader.
        batch_size: Samples of a batch at most.
        most: Samples to validate with; some more where the ranks could not share them equally.
        ranks: Numbers of ranks.

    >>> split_validation(4241, 16, 64, [2])
    Validation(num_samples=64, batch_size=16, num_batches=4)
    >>> split_validation(4241, 20, 64, [2])  # each of 2 ranks has 2120 or 2121, which 20 would not divide alike
    Validation(num_samples=76, batch_size=19, num_batches=4)
    >>> split_validation(50, 16, 64, [2])
    Validation(num_samples=50, batch_size=16, num_batches=None)
    """

    def is_kept(size: int) -> bool:
        return size == 1 or all(num_samples % num == 0 or (num_samples // num) % size for num in ranks)

    if most and most < num_samples:
        size = next(size for size in range(min(batch_size, most), 0, -1) if is_kept(size))
        num_batches = ceil(most / size / lcm(*ranks)) * lcm(*ranks)
        if num_batches * size < num_samples:
            return Validation(num_batches * size, size, num_batches)
    return Validation(num_samples if most else 0, batch_size)
