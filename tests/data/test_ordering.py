"""Guards: a sample that an epoch leaves out or shows twice, and devices that wait longer than is promised."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.data.ordering import (
    deal_packed,
    deal_rows,
    length_order,
    modality_length_order,
    shuffled_order,
    spread_evenly,
)
from llava_pl.types import InputError

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=90)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(nested: list[list[int]]) -> list[int]:
    return [index for part in nested for index in part]


def test_shuffle_is_torch_s():
    assert shuffled_order(6, seeded(2)) == torch.randperm(6, generator=seeded(2)).tolist() == [0, 3, 1, 2, 4, 5]


def test_chunks_take_turns_at_being_the_shortest():
    assert spread_evenly([3, 2, 1, 0], [1, 2, 5, 6], 2) == [[3, 0], [2, 1]]
    assert spread_evenly([0, 1, 2, 3], [9, 1, 1, 1], 2) == [[0, 3], [1, 2]]  # full after two, however short


def test_chunks_without_regard_to_length():
    assert spread_evenly([4, 3, 2, 1, 0], [1, 1, 1, 1, 99], 2) == [[4, 2, 0], [3, 1]]
    assert spread_evenly([7], [0] * 8, 3) == [[7], [], []]


def test_length_order_sorts_within_a_global_batch():
    lengths = [10, 20, 30, 40, 50, 60]
    assert shuffled_order(6, seeded(2)) == [0, 3, 1, 2, 4, 5]
    # The first four are 40, 30, 20, 10 from long to short: 40 + 10 and 30 + 20. The last two make a chunk each.
    assert length_order(lengths, 2, 2, seeded(2)) == [3, 0, 2, 1, 5, 4]


def test_modalities_meet_in_the_last_global_batch_alone():
    lengths = [3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8]
    order = modality_length_order(lengths, 2, 2, seeded(0))
    kinds = ["".join("+" if lengths[i] > 0 else "-" for i in order[start : start + 4]) for start in (0, 4)]
    assert sorted(kinds) == ["++++", "----"]
    assert order[8:] == sorted(order[8:])
    assert sorted(order) == list(range(12))


@given(lengths=LENGTHS, size=st.integers(1, 5), num=st.integers(1, 6), seed=st.integers(0, 9))
def test_original_orders_hold_every_sample_once(lengths, size, num, seed):
    signed = [length if length % 3 else -length for length in lengths]
    for order in (
        length_order(lengths, size, num, seeded(seed)),
        modality_length_order(signed, size, num, seeded(seed)),
    ):
        assert sorted(order) == list(range(len(lengths)))


def test_rows_are_dealt_longest_first():
    lengths = [5, 80, 20, 70, 10, 60, 30, 50]
    dealt = deal_rows(range(8), lengths, num_ranks=2, micro_batch_size=1)
    # One by one: 80 | 70; then 60 to the second and 50 to the first; 30 and 20; 10 and 5.
    assert [[lengths[i] for i in rank] for rank in dealt] == [[80, 50, 30, 5], [70, 60, 20, 10]]
    assert deal_rows(range(8), lengths, num_ranks=2, micro_batch_size=4) == [[1, 3, 5, 7], [6, 2, 4, 0]]


def test_equal_lengths_stay_in_order():
    assert deal_rows([9, 4, 7, 2], [1] * 10, num_ranks=2, micro_batch_size=2) == [[9, 4], [7, 2]]


@given(lengths=LENGTHS, num_ranks=st.integers(1, 5), size=st.integers(1, 4))
def test_rows_keep_their_promises(lengths, num_ranks, size):
    indices = list(range(len(lengths) // num_ranks * num_ranks))
    dealt = deal_rows(indices, lengths, num_ranks=num_ranks, micro_batch_size=size)
    assert sorted(flat(dealt)) == indices
    assert {len(rank) for rank in dealt} == {len(indices) // num_ranks}
    work = [
        [max(lengths[i] for i in rank[at : at + size]) * len(rank[at : at + size]) for at in range(0, len(rank), size)]
        for rank in dealt
    ]
    spread = max((max(place) - min(place) for place in zip(*work, strict=True)), default=0)
    assert max(map(sum, work)) - min(map(sum, work)) <= spread
    if len(indices) % (num_ranks * size) == 0:
        ranked = sorted((lengths[i] for i in indices), reverse=True)
        assert sum(map(sum, work)) == size * sum(ranked[::size])


def test_packs_are_dealt_longest_first():
    lengths = [8, 7, 6, 5, 4]
    assert deal_packed(range(5), lengths, num_ranks=2, token_budget=17) == [[[0, 3, 4]], [[1, 2]]]
    assert deal_packed(range(5), lengths, num_ranks=2, token_budget=13) == [[[0], [3, 4]], [[1], [2]]]


@given(lengths=LENGTHS, num_ranks=st.integers(1, 5), budget=st.integers(60, 400))
def test_packs_keep_their_promises(lengths, num_ranks, budget):
    try:
        dealt = deal_packed(range(len(lengths)), lengths, num_ranks=num_ranks, token_budget=budget)
    except InputError:
        assert len(lengths) < num_ranks or budget < 3 * max(lengths)
        return
    assert sorted(flat(flat(dealt))) == list(range(len(lengths)))
    assert len({len(rank) for rank in dealt}) == 1
    assert all(rows and sum(lengths[i] for i in rows) <= budget for rank in dealt for rows in rank)
    for parts in ([flat(rank) for rank in dealt], *dealt):
        tokens = [sum(lengths[i] for i in part) for part in parts]
        fullest = parts[tokens.index(max(tokens))]
        assert max(tokens) - min(tokens) <= min(lengths[i] for i in fullest)


@pytest.mark.parametrize(
    ("lengths", "budget", "message"),
    [
        ([5], 9, "a global batch of 1 samples cannot be dealt to 2 devices"),
        ([5, 10], 9, "token_budget: expected at least 10, the tokens of sample 1, found 9"),
        ([9, 5, 5], 9, "token_budget: 9 tokens are too few to deal 3 samples of up to 9 tokens to 2 devices"),
    ],
)
def test_deals_that_cannot_be(lengths, budget, message):
    with pytest.raises(InputError, match=message):
        deal_packed(range(len(lengths)), lengths, num_ranks=2, token_budget=budget)
