"""Guards: a source that is seen more or less often than asked for, or an entry that names the wrong record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.data.mixture import Mixture, SourceConfig
from llava_pl.types import InputError, Record


def records(prefix, number):
    return [Record(id=f"{prefix}{index}", turns=()) for index in range(number)]


def ids(mixture):
    return [record.id for record in mixture]


def test_sources_follow_one_another():
    mixture = Mixture([("a", records("a", 2), 1.0), ("b", records("b", 3), 2.0)])
    assert ids(mixture) == ["a0", "a1", "b0", "b1", "b2", "b0", "b1", "b2"]
    assert mixture.counts == {"a": 2, "b": 6}
    assert [mixture.locate(index) for index in (0, 2, 7)] == [(0, 0), (1, 0), (1, 2)]


def test_a_fraction_is_drawn_from_the_seed():
    sources = [("a", records("a", 100), 0.5)]
    first, again, other = (ids(Mixture(sources, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == len(first) == 50


@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4), repeats=st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0]))
def test_each_record_is_held_as_often_as_asked_for(sizes, repeats):
    mixture = Mixture([(str(number), records(f"{number}-", size), repeats) for number, size in enumerate(sizes)])
    assert len(mixture) == sum(mixture.counts.values())
    for number, size in enumerate(sizes):
        held = [
            sum(place == (number, index) for place in map(mixture.locate, range(len(mixture)))) for index in range(size)
        ]
        assert all(int(repeats) <= times <= int(repeats) + 1 for times in held)
        assert sum(held) == int(repeats) * size + round(size * (repeats % 1))


@pytest.mark.parametrize("index", [-1, 5])
def test_there_is_nothing_beyond_the_ends(index):
    with pytest.raises(IndexError):
        Mixture([("a", records("a", 5), 1.0)])[index]


def test_names():
    assert SourceConfig("x/coco.json").label == "coco"
    assert SourceConfig("x/coco.json", name="pictures").label == "pictures"
    with pytest.raises(InputError, match="expected names that differ, found a, a; give a name"):
        Mixture([("a", [], 1.0), ("a", [], 1.0)])


@pytest.mark.parametrize("repeats", [0.0, -1.0, float("nan")])
def test_a_weight_that_leaves_nothing(repeats):
    with pytest.raises(InputError, match="repeats: expected a number above 0"):
        SourceConfig("x.json", repeats=repeats)
