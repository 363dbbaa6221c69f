"""Guards the error bars: an interval that is too narrow makes noise a result."""

from fractions import Fraction
from itertools import pairwise, product
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.evaluation.intervals import (
    NUM_DRAWS,
    Interval,
    add_up,
    compare,
    draw_sums,
    mcnemar,
    mean_interval,
    ratio_interval,
    sign_flips,
    sum_interval,
)


def test_interval_of_a_share_is_that_of_the_binomial_distribution():
    """Of 400 questions with 300 right and four more of which two are: the quantiles of Binomial(404, 302 / 404)."""
    chances = [comb(404, k) * (302 / 404) ** k * (102 / 404) ** (404 - k) for k in range(405)]
    below = np.cumsum(chances)
    expected = (int((below < 0.025).sum()) / 404, int((below < 0.975).sum()) / 404)
    assert mean_interval([1.0] * 300 + [0.0] * 100) == pytest.approx(expected, abs=1.1 / 404)


def test_interval_is_near_agresti_and_coull_s():
    for right, number in ((472, 500), (20, 20), (3, 168), (84, 168)):
        share = (right + 2) / (number + 4)
        error = 1.96 * sqrt(share * (1 - share) / (number + 4))
        expected = (max(0, share - error), min(1, share + error))
        found = mean_interval([1.0] * right + [0.0] * (number - right))
        assert found == pytest.approx(expected, abs=1.1 / (number + 4))


@pytest.mark.parametrize(
    ("chance", "number", "least"), [(0.7, 100, 0.93), (0.97, 168, 0.93), (0.937, 50, 0.93), (0.99, 20, 0.93)]
)
def test_coverage(chance, number, least):
    """Of 400 sets of questions with the same chance, the interval holds that chance in about 95 %, near 1, too.

    Without questions that were not met it is 88 % for the second, 86 % for the third and 18 % for the last.
    """
    draw = np.random.default_rng(1)
    rights = draw.binomial(number, chance, size=400)
    intervals = {right: mean_interval([1.0] * right + [0.0] * (number - right)) for right in set(rights)}
    held = np.mean([intervals[right].low <= chance <= intervals[right].high for right in rights])
    assert least <= held <= 1.0


def test_coverage_of_questions_in_clusters():
    """Of 300 sets of 60 pictures with six questions each, which have a chance in common."""
    draw, held = np.random.default_rng(2), 0
    pictures = np.repeat(np.arange(60), 6).tolist()
    for _ in range(300):
        chances = np.repeat(draw.beta(2, 1, size=60), 6)
        low, high = mean_interval((draw.random(360) < chances).astype(float).tolist(), pictures)
        held += low <= 2 / 3 <= high
    assert 0.93 <= held / 300 <= 0.99


def test_other_credits_than_right_and_wrong():
    """Soft credits: beside the standard error of the mean, 1.96 times to either side."""
    credits = [0.0, 0.3, 0.6, 0.9, 1.0] * 80
    mean, error = np.mean(credits), np.std(credits) / sqrt(len(credits))
    assert mean_interval(credits) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)


def test_no_question():
    assert mean_interval([]) is None
    assert ratio_interval([(0, 0), (0, 0)]) is None


@pytest.mark.parametrize("number", [1, 5, 300])
def test_better_answers_have_higher_intervals(number):
    """All right is not certain, and better than one wrong at both ends."""
    intervals = [mean_interval([1.0] * right + [0.0] * (number - right)) for right in range(number + 1)]
    assert all(a.low <= b.low and a.high <= b.high for a, b in pairwise(intervals))
    assert intervals[0].low == 0.0
    assert intervals[-1].high == 1.0
    assert 0.0 < intervals[-1].low < 1.0


def test_alike_but_partly_right():
    low, high = mean_interval([0.7] * 6, [*"abbccc"])
    assert low < 0.6
    assert high > 0.8


def test_many_kinds_of_credit_fit_into_memory():
    credits = np.random.default_rng(3).random(3000).tolist()
    mean, error = np.mean(credits), np.std(credits) / sqrt(3000)
    assert mean_interval(credits) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)


def test_sum():
    """Of three independent scores that are each normally spread: their errors add up as squares."""
    parts = [(10.0 * n, Interval(10.0 * n - n, 10.0 * n + n)) for n in (1, 2, 2)]
    assert sum_interval(parts) == (47.0, 53.0)


def test_questions_about_one_picture_count_as_one():
    """Four copies of each question say no more than one of each."""
    credits, pictures = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 5, list(range(40))
    once = mean_interval(credits, pictures)
    assert mean_interval(credits * 4, pictures * 4) == pytest.approx(once)
    wider = np.diff(once) / np.diff(mean_interval(credits * 4))
    assert wider == pytest.approx(2, abs=0.2)
    assert mean_interval(credits) == once
    assert mean_interval([1.0] * 40, [*"ab"] * 20) == pytest.approx(mean_interval([1.0] * 2))


def test_sums_of_clusters():
    assert add_up([(0.1, 1), (1.0, 1), (0.2, 1), (0.3, 1)], ["a", "b", "a", "a"]) == [(0.6, 3), (1.0, 1)]
    assert add_up([(1, 2)]) == [(1, 2)]


def test_ratio():
    """Clusters with nothing below the line say nothing of it."""
    assert ratio_interval([(1, 1), (0, 0), (0, 1)]) == ratio_interval([(1, 1), (0, 1)])


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60), st.randoms())
def test_order_does_not_matter(credits, random):
    shuffled = random.sample(credits, len(credits))
    assert mean_interval(credits) == mean_interval(shuffled)


def test_drawn_sets_have_as_many_clusters():
    sums = draw_sums([(1, 5), (0, 5), (0, 5), (2, 5)])
    assert sums.shape == (NUM_DRAWS, 2)
    assert (sums[:, 1] == 20).all()
    assert sums[:, 0].mean() == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("pair", list(product(range(5), repeat=2)))
def test_mcnemar_is_the_coin_that_it_says(pair):
    """By plain enumeration: the chance of a division at least as uneven, both ways."""
    number = sum(pair)
    chances = [Fraction(comb(number, k), 2**number) for k in range(number + 1)]
    expected = sum(chance for k, chance in enumerate(chances) if abs(2 * k - number) >= abs(pair[0] - pair[1]))
    assert mcnemar(*pair) == pytest.approx(float(expected), abs=1e-15)


def test_mcnemar_of_many_questions():
    """Of 4,100 that differ, beside the normal approximation with its correction by a half, good to 1e-4 here."""
    from statistics import NormalDist

    z = (100 - 1) / sqrt(4100)
    assert mcnemar(2000, 2100) == pytest.approx(2 * (1 - NormalDist().cdf(z)), abs=1e-4)


def test_comparison():
    first, second = [1.0] * 6 + [0.0] * 4, [1.0] * 5 + [0.0] + [1.0] * 3 + [0.0]
    found = compare(first, second)
    assert (found.num_questions, found.first_better, found.second_better) == (10, 1, 3)
    assert found.difference == pytest.approx(0.2)
    assert (found.p_value, found.test) == (mcnemar(1, 3), "McNemar")
    assert found.interval.low < 0.2 < found.interval.high
    turned = compare(second, first)
    assert turned.difference == pytest.approx(-0.2)


def test_comparison_of_answers_that_may_be_partly_right():
    first, second = [1.0, 0.3, 0.0, 0.6], [1.0, 0.6, 0.3, 0.0]
    found = compare(first, second)
    assert (found.first_better, found.second_better, found.test) == (1, 2, "sign flips")
    assert found.difference == 0.0
    assert found.p_value == 1.0


def test_comparison_draws_pictures():
    first, second, pictures = [1.0, 1.0, 0.0] * 20, [0.0, 1.0, 1.0] * 20, list(range(60))
    once = compare(first, second, pictures)
    assert compare(first * 4, second * 4, pictures * 4).interval == pytest.approx(once.interval)


def test_answers_that_agree_may_yet_differ():
    """On questions that were not met: of 168, in one or two more."""
    found = compare([1.0] * 168, [1.0] * 168)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.interval == pytest.approx((-2 / 170, 2 / 170))


@pytest.mark.parametrize("differences", [[0.3, 0.3, -0.6, 1.0], [1.0] * 5, [0.0, 0.0], [0.9, -0.3, 0.0, 0.6, 0.3, 0.3]])
def test_sign_flips_are_all_throws_of_signs(differences):
    """By plain enumeration of the signs; 0.015 is three standard errors of 10,000 throws."""
    sums = [np.dot(signs, differences) for signs in product((-1, 1), repeat=len(differences))]
    expected = np.mean([abs(each) >= abs(sum(differences)) - 1e-9 for each in sums])
    assert sign_flips(differences) == pytest.approx(expected, abs=0.015)


def test_answers_to_other_questions_cannot_be_compared():
    with pytest.raises(ValueError, match="zip"):
        compare([1.0], [1.0, 0.0])
