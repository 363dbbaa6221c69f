"""How sure a score is: bootstrap intervals, and whether two sets of answers to the same questions differ.

In: what each question earned. Out: 95 % confidence intervals of the score.

A bootstrap draws sets of as many questions, with replacement, and scores each. How often a set has each kind of outcome
is all that the score needs, so that is what is drawn: ten thousand sets cost as much as a few. The interval is the
percentile one, and is too narrow where there are few questions; of a score that no question disturbs (all right, all
wrong) it has no width, which says nothing of the questions that were not asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 10_000
LEVEL = 0.95

Outcome = TypeVar("Outcome", bound=Hashable)


class Interval(NamedTuple):
    """Between what a score lies, in its own unit."""

    low: float
    high: float


def draw_counts(outcomes: Sequence[Outcome], *, seed: int = 0) -> tuple[list[Outcome], NDArray[np.int64]]:
    """Return the kinds of outcome, sorted, and how often each is in sets drawn anew, int64 ``(NUM_DRAWS, kinds)``.

    Args:
        outcomes: One for each question, at least one; kinds that can be sorted.
        seed: The same draws for the same seed.
    """
    counts = Counter(outcomes)
    kinds = sorted(counts)  # type: ignore[type-var]  # their order decides which draw is which
    shares = np.array([counts[kind] for kind in kinds]) / len(outcomes)
    return kinds, np.random.default_rng(seed).multinomial(len(outcomes), shares, size=NUM_DRAWS)


def middle_of(scores: NDArray[np.float64]) -> Interval:
    """Return the interval that holds the middle 95 % of the scores of drawn sets."""
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def mean_interval(credits: Sequence[float], *, seed: int = 0) -> Interval | None:
    """Return the interval of the mean of what questions earned, None without any.

    >>> mean_interval([1.0] * 90 + [0.0] * 10)
    Interval(low=0.84, high=0.95)
    """
    if not len(credits):
        return None
    kinds, counts = draw_counts(credits, seed=seed)
    return middle_of(counts @ np.array(kinds, dtype=np.float64) / len(credits))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of answers to the same questions.

    Args:
        difference: Mean credit of the second minus that of the first.
        interval: Of the difference, questions being drawn with both of their answers.
        num_questions: That both answer sets are scored on.
        only_first: Questions that the first alone has right.
        only_second: Questions that the second alone has right.
        p_value: Of McNemar's exact test: how often answers that are right equally often would part as far as these.
    """

    difference: float
    interval: Interval
    num_questions: int
    only_first: int
    only_second: int
    p_value: float


def compare(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Comparison:
    """Return how two sets of answers differ.

    Args:
        first: What each question earned; right is a credit of more than a half.
        second: The same, question by question; at least one.
        seed: Of the bootstrap.
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    rights = [(a > 0.5, b > 0.5) for a, b in zip(first, second, strict=True)]
    only_first, only_second = rights.count((True, False)), rights.count((False, True))
    interval = mean_interval(differences, seed=seed)
    assert interval is not None
    return Comparison(
        sum(differences) / len(differences), interval, len(differences), only_first, only_second,
        mcnemar(only_first, only_second),
    )  # fmt: skip


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947): a fair coin for each question that differs.

    Args:
        only_first: Questions that the first answers alone have right.
        only_second: Questions that the second answers alone have right.

    >>> mcnemar(1, 5), mcnemar(3, 3), mcnemar(0, 0)
    (0.21875, 1.0, 1.0)
    """
    num_different = only_first + only_second
    ways, tail = 1, 1  # of k heads in that many throws; in integers, which do not round
    for k in range(min(only_first, only_second)):
        ways = ways * (num_different - k) // (k + 1)
        tail += ways
    return min(1.0, float(2 * tail / 2**num_different))
