"""Guards the filter of alignment pairs: it must be the paper's, whatever the order, and the same on every machine."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.building.balance import Balance, draw_captions

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), unique=True, max_size=60)


def as_columns(pairs):
    columns = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def as_the_paper_says(pairs, balance):
    """Phrase by phrase, from the rarest upward; a draw is what has the lowest lots."""
    lots = np.random.default_rng(balance.seed).random(len(pairs), dtype=np.float32)
    captions_of = defaultdict(list)
    for lot, (phrase, caption) in zip(lots, pairs, strict=True):
        captions_of[phrase].append((lot, caption))
    pool = set()
    for captions in sorted(captions_of.values(), key=len):
        if len(captions) < balance.min_count:
            continue
        if len(captions) > balance.max_captions:
            captions = sorted(captions)[: balance.max_captions]
        pool |= {caption for _, caption in captions}
    return sorted(pool)


@given(PAIRS, st.integers(0, 5), st.integers(1, 6), st.integers(0, 3))
def test_it_is_the_paper_s_filter(pairs, min_count, max_captions, seed):
    balance = Balance(min_count, max_captions, seed)
    assert draw_captions(*as_columns(pairs), balance).tolist() == as_the_paper_says(pairs, balance)


@pytest.mark.parametrize(
    ("sizes", "num_kept"),
    [([2], 0), ([3], 3), ([100], 100), ([101], 100), ([5000, 2, 7], 107)],
)
def test_paper_s_numbers(sizes, num_kept):
    pairs = [(phrase, 10_000 * phrase + n) for phrase, size in enumerate(sizes) for n in range(size)]
    assert len(draw_captions(*as_columns(pairs), Balance())) == num_kept


def test_draws_are_uniform():
    """Each of ten captions is drawn in half of 2,000 draws; a bias of one place would be 20 deviations away."""
    phrases, captions = as_columns([(phrase, caption) for phrase in range(2000) for caption in range(10)])
    drawn = [draw_captions(phrases[:10], captions[:10], Balance(1, 5, seed)) for seed in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert counts.sum() == 10_000
    assert abs(counts - 1000).max() < 5 * np.sqrt(2000 * 0.25)
