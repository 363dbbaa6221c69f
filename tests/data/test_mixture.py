"""Guards: a source that is seen more or less often than asked for, or an entry that names the wrong record."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.data.mixture import Mixed, Mixture
from llava_pl.types import InputError


def mix(*sources: tuple[str, int, float], seed: int = 0) -> Mixture:
    labels, sizes, repeats = zip(*sources, strict=True)
    return Mixture(labels, [np.arange(size) for size in sizes], repeats, seed=seed)


def places(mixture: Mixture) -> list[tuple[int, int]]:
    return [mixture.locate(index) for index in range(len(mixture))]


def test_sources_follow_one_another():
    mixture = mix(("a", 2, 1.0), ("b", 3, 2.0))
    assert places(mixture) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 0), (1, 1), (1, 2)]


def test_records_that_are_left_out_are_in_no_epoch():
    mixture = Mixture(["a", "b"], [np.array([1, 4]), np.array([0])], [2, 1])
    assert places(mixture) == [(0, 1), (0, 4), (0, 1), (0, 4), (1, 0)]


def test_what_sources_hold_is_put_in_the_same_order():
    mixture = Mixture(["a", "b"], [np.array([1, 2]), np.array([0])], [1, 2])
    assert mixture.gather([np.array([7, 8, 9]), np.array([5])]).tolist() == [8, 9, 5, 5]
    mixed = pickle.loads(pickle.dumps(Mixed(mixture, ["xyz", "q"])))
    assert list(mixed) == ["y", "z", "q", "q"]
    assert len(mixed) == 4
    assert mixture.count_draws(0, 4).tolist() == [0, 1, 1, 0]
    assert mixture.count_draws(1, 1).tolist() == [2]


def test_the_entry_of_a_record_is_found():
    mixture = Mixture(["a", "b"], [np.array([1, 4]), np.array([0])], [2, 1])
    assert [mixture.find(0, place) for place in (1, 4, 0)] == [0, 1, None]
    assert [mixture.find(1, place) for place in (0, 1)] == [4, None]


def test_entries_are_counted_by_source():
    mixture = mix(("a", 2, 1.0), ("b", 3, 2.0))
    assert mixture.count_sources([0, 1, 2, 7, 7]).tolist() == [2, 3]
    assert mixture.count_sources([]).tolist() == [0, 0]


def test_no_sources():
    mixture = Mixture([], [], [])
    assert len(mixture) == 0
    assert mixture.gather([]).tolist() == []


def test_a_fraction_is_drawn_from_the_seed():
    first, again, other = (places(mix(("a", 100, 0.5), seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == len(first) == 50


@given(sizes=st.lists(st.integers(3, 9), min_size=1, max_size=4), repeats=st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0]))
def test_each_record_is_held_as_often_as_asked_for(sizes, repeats):
    mixture = mix(*[(str(number), size, repeats) for number, size in enumerate(sizes)])
    assert len(mixture) == len(places(mixture))
    for number, size in enumerate(sizes):
        held = [places(mixture).count((number, index)) for index in range(size)]
        assert all(int(repeats) <= times <= int(repeats) + 1 for times in held)
        assert sum(held) == int(repeats) * size + round(size * (repeats % 1))


@pytest.mark.parametrize("index", [-1, 5])
def test_there_is_nothing_beyond_the_ends(index):
    with pytest.raises(IndexError):
        mix(("a", 5, 1.0)).locate(index)


@pytest.mark.parametrize("repeats", [0.0, -1.0, 1e9])
def test_a_weight_that_leaves_nothing(repeats):
    with pytest.raises(InputError, match=r"data\.records: x: repeats: expected more than 0 and at most 1000, found "):
        mix(("x", 3, repeats))


def test_a_weight_that_is_no_number():
    with pytest.raises(InputError) as caught:
        mix(("x", 3, float("nan")))
    assert str(caught.value) == (
        "data.records: x: repeats: expected a number, found nan; write how often an epoch holds each record, such as "
        "2.5"
    )


@pytest.mark.parametrize(("size", "repeats"), [(0, 1.0), (3, 1e-9)])
def test_a_source_of_which_nothing_is_held_is_named(size, repeats):
    with pytest.raises(InputError, match=r"data\.records: x: an epoch holds none of its records; leave the source out"):
        mix(("a", 3, 1.0), ("x", size, repeats))
    assert len(mix(("x", size, repeats))) == 0


def test_digest_tells_draws_apart():
    digests = [mix(("a", 9, 0.5), seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert mix(("a", 2, 1.0), ("b", 1, 1.0)).digest != mix(("a", 1, 1.0), ("b", 2, 1.0)).digest
