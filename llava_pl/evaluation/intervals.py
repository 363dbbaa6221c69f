"""How sure a score is: bootstrap intervals, and whether two sets of answers to the same questions differ.

In: what each question earned, and which picture it is about. Out: 95 % confidence intervals of the score.

A bootstrap draws sets of as many clusters, with replacement, and scores each; a cluster is the questions about one
picture, which are right or wrong together (Miller 2024, arXiv:2411.00640). How often a set has each kind of cluster is
all that the score needs, so that is what is drawn: ten thousand sets cost as much as a few. The interval is the
percentile one, which is somewhat too narrow where there are few clusters. Where all clusters are alike (all right, all
wrong) no draw differs, and the interval is what may have been missed: outcomes that 2.5 % of sets would hold none of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 10_000
LEVEL = 0.95


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


def draw_sums(outcomes: Sequence[tuple[float, ...]], *, seed: int = 0) -> NDArray[np.float64]:
    """Return what outcomes add up to in sets drawn anew, ``(NUM_DRAWS, numbers of an outcome)``.

    Args:
        outcomes: One for each cluster, at least one.
        seed: The same draws for the same seed.
    """
    counts = Counter(outcomes)
    kinds = sorted(counts)  # their order decides which draw is which
    shares = np.array([counts[kind] for kind in kinds]) / len(outcomes)
    drawn = np.random.default_rng(seed).multinomial(len(outcomes), shares, size=NUM_DRAWS)
    return drawn.astype(np.float64) @ np.array(kinds, dtype=np.float64)


def middle_of(scores: NDArray[np.float64]) -> Interval:
    """Return the interval that holds the middle 95 % of the scores of drawn sets."""
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def unseen_interval(score: float, number: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Return the interval of a score that all clusters agree on: of all right or all wrong, Clopper and Pearson's.

    Args:
        score: Of each of them.
        number: Of clusters.
        bounds: The least and the greatest score that others might have.

    >>> Interval(*(round(bound, 4) for bound in unseen_interval(1.0, 20)))
    Interval(low=0.8316, high=1.0)
    """
    seen = ((1 - LEVEL) / 2) ** (1 / number)  # the least share of such clusters
    low, high = (seen * score + (1 - seen) * bound for bound in bounds)
    return Interval(low, high)


def ratio_interval(
    outcomes: Sequence[tuple[float, ...]], bounds: tuple[float, float] = (0.0, 1.0), *, seed: int = 0
) -> Interval | None:
    """Return the interval of one sum over another, None where the second is nothing.

    Args:
        outcomes: What each cluster adds to both.
        bounds: The least and the greatest ratio of a cluster.
        seed: Of the draws.
    """
    counted = [(above, below) for above, below in outcomes if below]
    if not counted:
        return None
    ratios = {above / below for above, below in counted}
    if len(ratios) == 1:
        return unseen_interval(ratios.pop(), len(counted), bounds)
    above, below = draw_sums(outcomes, seed=seed).T
    return middle_of(above[below > 0] / below[below > 0])


def mean_interval(
    credits: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Interval | None:
    """Return the interval of the mean of what questions earned, None without any.

    Args:
        credits: Of each question.
        clusters: What each question is about; by default something of its own.
        bounds: The least and the greatest credit.
        seed: Of the draws.

    >>> mean_interval([1.0] * 90 + [0.0] * 10)
    Interval(low=0.84, high=0.95)
    """
    return ratio_interval(add_up([(credit, 1) for credit in credits], clusters), bounds, seed=seed)


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
    interval = mean_interval(differences, clusters, bounds=(-1.0, 1.0), seed=seed)
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
