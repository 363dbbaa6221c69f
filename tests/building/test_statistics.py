"""Guards counts of what records hold: marks of pictures taken for words, quantiles of something else."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.building.statistics import NUM_BINS, QUANTILES, Lengths, measure_records
from llava_pl.types import Record, Turn

RECORDS = [
    Record("1", (Turn("human", "<image>\nWhat is it?"), Turn("gpt", "A red dog's ball.")), ("a.png",)),
    Record("2", (Turn("human", "What is red?"), Turn("gpt", "The ball"), Turn("human", "Why?"), Turn("gpt", ""))),
    Record("3", (Turn("human", "How many?<image>"), Turn("gpt", "3 balls, or a ball.")), ("a.png",)),
]


def test_counts():
    found = measure_records(RECORDS)
    assert (found.num_records, found.num_without_picture) == (3, 1)
    assert found.pictures == {"a.png": 2}
    assert found.folders == {".": 2}
    assert found.questions.counts == {1: 2, 2: 1}
    assert found.question_words.counts == {3: 2, 1: 1, 2: 1}
    assert found.answer_words.counts == {4: 2, 2: 1, 0: 1}
    assert found.openings == {"what is": 2, "why": 1, "how many": 1}
    assert found.concepts == {"ball": 3, "red": 1, "dog's": 1, "balls": 1}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_quantiles_are_of_the_sorted_numbers(numbers):
    ordered = sorted(numbers)
    expected = {name: ordered[int(share * (len(ordered) - 1))] for name, share in QUANTILES.items()}
    assert Lengths(Counter(numbers)).quantiles() == expected


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60))
def test_a_histogram_holds_nearly_all(numbers):
    lengths = Lengths(Counter(numbers))
    end = lengths.most_usual()
    counts, edges = lengths.histogram(end)
    assert 0.99 * len(numbers) <= sum(number <= end for number in numbers) <= counts.sum()
    assert len(counts) <= NUM_BINS
    assert edges[0] < 0 < end < edges[-1] or end == 0
    assert len(set(np.diff(edges))) == 1  # files are compared bin by bin


def test_bins_of_small_numbers_hold_one_each():
    counts, edges = Lengths(Counter([1, 1, 3])).histogram(4)
    assert counts.tolist() == [0, 2, 0, 1, 0]
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert Lengths().most_usual() == 0
