"""Guards the error bars: an interval that is too narrow makes noise a result."""

from fractions import Fraction
from itertools import product
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.evaluation.intervals import NUM_DRAWS, Interval, compare, draw_counts, mcnemar, mean_interval


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


def test_no_question_and_no_doubt():
    assert mean_interval([]) is None
    assert mean_interval([1.0] * 5) == (1.0, 1.0)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60), st.randoms())
def test_order_does_not_matter(credits, random):
    shuffled = random.sample(credits, len(credits))
    assert mean_interval(credits) == mean_interval(shuffled)


def test_drawn_sets_have_as_many_questions():
    kinds, counts = draw_counts(["b", "a", "a", "c"])
    assert kinds == ["a", "b", "c"]
    assert counts.shape == (NUM_DRAWS, 3)
    assert (counts.sum(axis=1) == 4).all()
    assert counts.mean(axis=0) == pytest.approx([2, 1, 1], abs=0.05)


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
    assert (found.num_questions, found.only_first, found.only_second) == (10, 1, 3)
    assert found.difference == pytest.approx(0.2)
    assert found.p_value == mcnemar(1, 3)
    assert found.interval.low < 0.2 < found.interval.high
    turned = compare(second, first)
    assert turned.difference == pytest.approx(-0.2)


def test_answers_that_agree_do_not_differ():
    found = compare([1.0, 0.0], [1.0, 0.0])
    assert (found.difference, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_answers_to_other_questions_cannot_be_compared():
    with pytest.raises(ValueError, match="zip"):
        compare([1.0], [1.0, 0.0])
