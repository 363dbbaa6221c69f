"""Guards the error bars: an interval that is too narrow makes noise a result."""

from fractions import Fraction
from itertools import product
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
    unseen_interval,
)


def test_interval_of_a_share_is_that_of_the_binomial_distribution():
    """Of 400 questions with 300 right: the quantiles of Binomial(400, 0.75) / 400, which are 283 and 317."""
    assert mean_interval([1.0] * 300 + [0.0] * 100) == pytest.approx(Interval(283 / 400, 317 / 400), abs=0.5 / 400)


def test_coverage():
    """Of 400 samples of 100 questions with a chance of 0.7, the interval holds 0.7 in about 95 %.

    Seen: 93.5 %. The normal approximation at this size covers 94 to 95 %, and chance alone moves 400 tries by 2 %.
    """
    draw = np.random.default_rng(1)
    samples = (draw.random((400, 100)) < 0.7).astype(float)
    intervals = [mean_interval(sample.tolist()) for sample in samples]
    held = np.mean([low <= 0.7 <= high for low, high in intervals])
    assert 0.91 <= held <= 0.98


def test_other_credits_than_right_and_wrong():
    """Soft credits: beside the standard error of the mean, 1.96 times to either side."""
    credits = [0.0, 0.3, 0.6, 0.9, 1.0] * 80
    mean, error = np.mean(credits), np.std(credits) / sqrt(len(credits))
    assert mean_interval(credits) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)


def test_no_question():
    assert mean_interval([]) is None
    assert ratio_interval([(0, 0), (0, 0)]) is None


@pytest.mark.parametrize("number", [1, 5, 300])
def test_all_right_is_not_certain(number):
    """Clopper and Pearson's interval: with the chance at its end, all are right in 2.5 % of samples."""
    low, high = mean_interval([1.0] * number)
    assert (low**number, high) == (pytest.approx(0.025), 1.0)
    low, high = mean_interval([0.0] * number)
    assert (low, (1 - high) ** number) == (0.0, pytest.approx(0.025))


def test_alike_but_partly_right():
    """The share that such questions have at least; the rest might be all wrong, or all right."""
    seen = 0.025 ** (1 / 10)
    expected = (0.3 * seen, 0.3 * seen + (1 - seen))
    assert mean_interval([0.3] * 10) == pytest.approx(expected) == unseen_interval(0.3, 10)


def test_questions_about_one_picture_count_as_one():
    """Four copies of each question say no more than one of each."""
    credits, pictures = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 5, list(range(40))
    once = mean_interval(credits, pictures)
    assert mean_interval(credits * 4, pictures * 4) == pytest.approx(once)
    wider = np.diff(once) / np.diff(mean_interval(credits * 4))
    assert wider == pytest.approx(2, abs=0.15)
    assert mean_interval(credits) == once
    assert mean_interval([1.0] * 40, [*"ab"] * 20) == mean_interval([1.0] * 2)


def test_sums_of_clusters():
    assert add_up([(0.1, 1), (1.0, 1), (0.2, 1), (0.3, 1)], ["a", "b", "a", "a"]) == [(0.6, 3), (1.0, 1)]
    assert add_up([(1, 2)]) == [(1, 2)]


def test_ratio():
    """Draws in which nothing is below the line say nothing of it."""
    low, high = ratio_interval([(1, 1), (0, 0), (0, 1)])
    assert (low, high) == (0.0, 1.0)


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
    """All that is known is that questions on which they do are less than one in 2.5 % of samples would miss."""
    found = compare([1.0, 0.0], [1.0, 0.0])
    bound = 1 - 0.025**0.5
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.interval == pytest.approx((-bound, bound))


@pytest.mark.parametrize("differences", [[0.3, 0.3, -0.6, 1.0], [1.0] * 5, [0.0, 0.0], [0.9, -0.3, 0.0, 0.6, 0.3, 0.3]])
def test_sign_flips_are_all_throws_of_signs(differences):
    """By plain enumeration of the signs; 0.015 is three standard errors of 10,000 throws."""
    sums = [np.dot(signs, differences) for signs in product((-1, 1), repeat=len(differences))]
    expected = np.mean([abs(each) >= abs(sum(differences)) - 1e-9 for each in sums])
    assert sign_flips(differences) == pytest.approx(expected, abs=0.015)


def test_answers_to_other_questions_cannot_be_compared():
    with pytest.raises(ValueError, match="zip"):
        compare([1.0], [1.0, 0.0])
