"""How sure a score is: bootstrap intervals, and whether two sets of answers to the same questions differ.

In: what each question earned, and which picture it is about. Out: 95 % confidence intervals of the score.

A bootstrap draws sets of as many clusters, with replacement, and scores each; a cluster is the questions about one
picture, which are right or wrong together (Miller 2024, arXiv:2411.00640). How often a set has each kind of cluster is
all that the score needs, so that is what is drawn. The interval is the percentile one. So that it does not shrink to
nothing where all answers are right, or no answer differs, sets are drawn from what was found and from clusters that may
exist and were not met: of scores two right ones and two wrong ones (Agresti and Coull 1998), of differences one that
differs, by halves in either direction, and one that does not (Agresti and Min 2005).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, hypot
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_pl.progress import show_progress

NUM_DRAWS = 10_000
NUM_PARTS = 20
"""In which sets are drawn."""
MANY_KINDS = 1_000
LEVEL = 0.95
OF_SCORES = {0.0: 2.0, 1.0: 2.0}
"""Clusters that were not met: their credit, and how many of them."""
OF_DIFFERENCES = {-1.0: 0.5, 0.0: 1.0, 1.0: 0.5}


class Interval(NamedTuple):
    """Between what a score lies, in its own unit."""

    low: float
    high: float


def add_up(
    outcomes: Iterable[tuple[float, ...]], clusters: Iterable[Hashable] | None = None
) -> list[tuple[float, ...]]:
    """Return the sums of outcomes over each cluster; without clusters each outcome is its own.

    >>> add_up([(1.0, 1), (0.0, 1), (1.0, 1)], ["a", "b", "a"])
    [(2.0, 2.0), (0.0, 1.0)]
    """
    if clusters is None:
        return list(outcomes)
    together: dict[Hashable, list[tuple[float, ...]]] = {}
    for outcome, cluster in zip(outcomes, clusters, strict=True):
        together.setdefault(cluster, []).append(outcome)
    return [tuple(map(fsum, zip(*each, strict=True))) for each in together.values()]


def draw_sums(
    outcomes: Sequence[tuple[float, ...]], unmet: Mapping[tuple[float, ...], float] | None = None, *, seed: int = 0
) -> NDArray[np.float64]:
    """Return what outcomes add up to in sets drawn anew, ``(NUM_DRAWS, numbers of an outcome)``.

    Args:
        outcomes: One for each cluster, at least one.
        unmet: How often others are added to them.
        seed: The same draws for the same seed.
    """
    counts: dict[tuple[float, ...], float] = dict(Counter(outcomes))
    for outcome, number in (unmet or {}).items():
        counts[outcome] = counts.get(outcome, 0) + number
    kinds = sorted(counts)  # their order decides which draw is which
    shares, number = np.array([counts[kind] for kind in kinds]), sum(counts.values())
    values, random = np.array(kinds, dtype=np.float64), np.random.default_rng(seed)
    drawn = [
        random.multinomial(round(number), shares / number, size=NUM_DRAWS // NUM_PARTS).astype(np.float64) @ values
        # Of many kinds all draws at once would fill the memory, and they take seconds.
        for _ in show_progress(range(NUM_PARTS), "drawing sets", is_shown=len(kinds) > MANY_KINDS)
    ]
    return np.concatenate(drawn)


def middle_of(scores: NDArray[np.float64]) -> Interval:
    """Return the interval that holds the middle 95 % of the scores of drawn sets."""
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def ratio_interval(
    outcomes: Sequence[tuple[float, ...]], unmet: Mapping[float, float] = OF_SCORES, *, seed: int = 0
) -> Interval | None:
    """Return the interval of one sum over another, None where the second is nothing.

    Args:
        outcomes: What each cluster adds to both.
        unmet: Ratios of clusters that were not met, and how many of them are added.
        seed: Of the draws.
    """
    counted = [(above, below) for above, below in outcomes if below]
    if not counted:
        return None
    size = sum(below for _, below in counted) / len(counted)
    above, below = draw_sums(counted, {(ratio * size, size): number for ratio, number in unmet.items()}, seed=seed).T
    return middle_of(above / below)


def mean_interval(
    credits: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    unmet: Mapping[float, float] = OF_SCORES,
    seed: int = 0,
) -> Interval | None:
    """Return the interval of the mean of what questions earned, None without any.

    Args:
        credits: Of each question.
        clusters: What each question is about; by default something of its own.
        unmet: As for `ratio_interval`.
        seed: Of the draws.

    >>> Interval(*(round(bound, 2) for bound in mean_interval([1.0] * 90 + [0.0] * 10)))
    Interval(low=0.82, high=0.94)
    """
    return ratio_interval(add_up([(credit, 1) for credit in credits], clusters), unmet, seed=seed)


def sum_interval(parts: Sequence[tuple[float, Interval]]) -> Interval:
    """Return the interval of a sum of scores that do not depend on each other (Zou and Donner 2008).

    Args:
        parts: Each score, and its own interval.

    >>> sum_interval([(10.0, Interval(7.0, 11.0)), (20.0, Interval(16.0, 21.0))])
    Interval(low=25.0, high=31.414213562373096)
    """
    total = sum(score for score, _ in parts)
    below = hypot(*(score - interval.low for score, interval in parts))
    above = hypot(*(interval.high - score for score, interval in parts))
    return Interval(total - below, total + above)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of answers to the same questions.

    Args:
        difference: Mean credit of the second minus that of the first.
        interval: Of the difference, questions being drawn with both of their answers.
        num_questions: That both answer sets are scored on.
        first_better: Questions that the first earns more on.
        second_better: Questions that the second earns more on.
        p_value: How often answers that are equally good would part as far as these.
        test: "McNemar", exact, of answers that are right or wrong; "sign flips" of those that may be partly right.
    """

    difference: float
    interval: Interval
    num_questions: int
    first_better: int
    second_better: int
    p_value: float
    test: Literal["McNemar", "sign flips"]


def compare(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Comparison:
    """Return how two sets of answers differ.

    Args:
        first: What each question earned.
        second: The same, question by question; at least one.
        clusters: What each question is about; counts for the interval, not for the p-value.
        seed: Of the draws.
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    first_better, second_better = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    interval = mean_interval(differences, clusters, unmet=OF_DIFFERENCES, seed=seed)
    assert interval is not None
    is_binary = {*first, *second} <= {0.0, 1.0}
    return Comparison(
        fsum(differences) / len(differences), interval, len(differences), first_better, second_better,
        mcnemar(first_better, second_better) if is_binary else sign_flips(differences, seed=seed),
        "McNemar" if is_binary else "sign flips",
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


def sign_flips(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided p-value of Fisher's permutation test of paired differences, whose signs are thrown anew.

    Args:
        differences: Of each question; at least one.
        seed: Of the throws.
    """
    sizes = Counter(round(abs(difference), 9) for difference in differences)
    random = np.random.default_rng(seed)
    thrown = np.zeros(NUM_DRAWS)
    for size, number in sorted(sizes.items()):
        thrown += size * (2 * random.binomial(number, 0.5, size=NUM_DRAWS) - number)
    as_far = int((np.abs(thrown) >= abs(fsum(differences)) - 1e-6).sum())
    return (1 + as_far) / (1 + NUM_DRAWS)  # what was found is one of the throws
