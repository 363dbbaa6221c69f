"""Guards: a resumed epoch goes through its samples in another order, or another number of devices changes a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from llava_pl.data.sampler import EachOnceSampler, PackedSampler, ResumableSampler, check_budget, count_epochs
from llava_pl.types import InputError

LENGTHS = [4, -9, 2, 7, -1, 5, 8, -3, 6, 10]
GROUPINGS = ["none", "length", "modality_length", "balanced"]


def order(epoch, start=0, rank=0, world=1, num=10, seed=3, **options):
    """What a rank reads; the lengths go through LENGTHS again and again, with a sign only where it means something."""
    signed = options.get("grouping") == "modality_length"
    lengths = [LENGTHS[i % 10] if signed else abs(LENGTHS[i % 10]) for i in range(num)]
    sampler = ResumableSampler(range(num), num_replicas=world, rank=rank, seed=seed, lengths=lambda: lengths, **options)
    sampler.set_epoch(epoch)
    sampler.start = start
    return list(sampler)


def global_batches(grouping, world, size, num_micro_batches, num, seed=3):
    """The samples of each step over all ranks, sorted."""
    options = {"grouping": grouping, "micro_batch_size": size, "num_micro_batches": num_micro_batches}
    ranks = [order(0, rank=rank, world=world, num=num, seed=seed, **options) for rank in range(world)]
    step = size * num_micro_batches
    return [sorted(i for rank in ranks for i in rank[at : at + step]) for at in range(0, len(ranks[0]), step)]


def test_order_is_a_function_of_seed_and_epoch():
    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(order(0)) == list(range(10))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 13])
def test_ungrouped_order_is_torch_s(world):
    for rank in range(world):
        sampler = DistributedSampler(range(10), num_replicas=world, rank=rank, seed=3)
        sampler.set_epoch(2)
        assert order(2, rank=rank, world=world) == list(sampler)


def test_start_leaves_out_what_is_done():
    assert order(1, start=4) == order(1)[4:]
    assert order(1, start=4, rank=1, world=2) == order(1, rank=1, world=2)[4:]


def test_length_is_that_of_the_whole_epoch():
    sampler = ResumableSampler(range(10), num_replicas=1, rank=0)
    sampler.start = 4
    assert len(sampler) == 10


def test_micro_batches_of_the_original_go_to_the_ranks_in_turn():
    options = {"grouping": "modality_length", "micro_batch_size": 2}
    # On one device that accumulates two micro batches, the order is the original's for two; see tests/parity.
    whole = order(0, num_micro_batches=2, **options)
    assert whole == [9, 5, 6, 8, 0, 1, 2, 3, 4, 7]
    # Two steps of two each, and one each of what is left.
    assert order(0, rank=0, world=2, **options) == [9, 5, 0, 1, 4]
    assert order(0, rank=1, world=2, **options) == [6, 8, 2, 3, 7]


def test_balanced_order_in_full():
    assert order(0) == [6, 0, 3, 7, 8, 5, 1, 9, 2, 4]
    options = {"grouping": "balanced", "micro_batch_size": 2, "num_micro_batches": 2, "world": 2}
    ranks = [order(0, rank=rank, **options) for rank in range(2)]
    # Lengths of the first eight: 8 4 7 3 6 5 9 10. One rank gets 10 9 and then 4 3, the other 8 7 and then 6 5.
    assert ranks == [[9, 1, 0, 7, 2], [6, 3, 8, 5, 4]]


@given(
    grouping=st.sampled_from(GROUPINGS),
    world=st.integers(1, 4),
    size=st.integers(1, 4),
    num_micro_batches=st.integers(1, 3),
    num=st.integers(1, 70),
    start=st.integers(0, 70),
)
def test_every_sample_once_and_resumed_anywhere(grouping, world, size, num_micro_batches, num, start):
    options = {"grouping": grouping, "micro_batch_size": size, "num_micro_batches": num_micro_batches, "num": num}
    ranks = [order(1, rank=rank, world=world, **options) for rank in range(world)]
    assert {len(rank) for rank in ranks} == {-(-num // world)}
    seen = [index for rank in ranks for index in rank]
    assert set(seen) == set(range(num))
    assert len(seen) - num < world  # the repeated ones
    for rank in range(world):
        assert order(1, start=start, rank=rank, world=world, **options) == ranks[rank][start:]


@given(
    grouping=st.sampled_from(GROUPINGS),
    split=st.sampled_from([(1, 12, 1), (1, 4, 3), (2, 6, 1), (2, 3, 2), (3, 4, 1), (4, 1, 3), (6, 2, 1), (12, 1, 1)]),
    num=st.integers(1, 70),
    seed=st.integers(0, 5),
)
def test_global_batches_do_not_depend_on_the_number_of_devices(grouping, split, num, seed):
    """Twelve samples each, the last one aside: there the order's first samples fill up the ranks."""
    expected, found = (global_batches(grouping, *sizes, num, seed) for sizes in ((1, 12, 1), split))
    assert found[: num // 12] == expected[: num // 12]
    if num % 12:
        assert set(expected[-1]) <= set(found[-1])


@given(num=st.integers(1, 70), seed=st.integers(0, 5), world=st.sampled_from([1, 2, 4]))
def test_balanced_keeps_the_global_batches_of_none(num, seed, world):
    sizes = (world, 2, 4 // world, num, seed)
    assert global_batches("balanced", *sizes) == global_batches("none", *sizes)


def test_lengths_are_asked_for_once_and_only_when_needed():
    asked = []

    def lengths():
        asked.append(0)
        return [1] * 10

    for grouping, times in (("none", 0), ("balanced", 1)):
        sampler = ResumableSampler(range(10), num_replicas=1, rank=0, grouping=grouping, lengths=lengths)
        assert len(list(sampler) + list(sampler)) == 20
        assert len(asked) == times


def test_wrong_number_of_lengths():
    sampler = ResumableSampler(range(10), num_replicas=1, rank=0, grouping="length", lengths=lambda: [1] * 9)
    with pytest.raises(InputError, match="lengths: expected one for each of 10 samples, found 9"):
        list(sampler)


def each_once(num, world, batch_size):
    return [EachOnceSampler(range(num), num_replicas=world, rank=rank, batch_size=batch_size) for rank in range(world)]


@given(num=st.integers(1, 300), world=st.integers(1, 4), batch_size=st.integers(1, 16))
def test_evaluation_sees_every_sample_once_in_equally_many_batches(num, world, batch_size):
    samplers = each_once(num, world, batch_size)
    ranks = [list(sampler) for sampler in samplers]
    assert sorted(index for rank in ranks for index in rank if index < num) == list(range(num))
    assert [[index for index in rank if index < num] for rank in ranks] == [
        list(range(rank, num, world)) for rank in range(world)
    ]
    assert [len(sampler) for sampler in samplers] == list(map(len, ranks))
    [size] = {sampler.batch_size for sampler in samplers}
    assert 1 <= size <= batch_size
    assert len({-(-len(rank) // size) for rank in ranks}) == 1
    if any(index >= num for rank in ranks for index in rank):  # no size would have done without
        assert size == batch_size
        smaller, larger = num // world, -(-num // world)
        assert all(-(-smaller // other) != -(-larger // other) for other in range(1, batch_size + 1))


def test_evaluation_order_in_full():
    assert [list(sampler) for sampler in each_once(5, 3, 2)] == [[0, 3], [1, 4], [2]]
    # In batches of one the last rank has one less, and is given the third sample (2) again.
    assert [list(sampler) for sampler in each_once(5, 3, 1)] == [[0, 3], [1, 4], [2, 5 + 2]]
    assert [list(sampler) for sampler in each_once(1, 3, 4)] == [[0], [1 + 0], [1 + 0]]


def test_nothing_to_evaluate():
    with pytest.raises(InputError, match="data: nothing to evaluate; expected at least one sample"):
        each_once(0, 2, 4)


def packs(epoch=0, start=0, rank=0, world=1, num=50, size=2, num_micro_batches=3):
    lengths = [LENGTHS[i % 10] if LENGTHS[i % 10] > 0 else 1 for i in range(num)]
    sampler = PackedSampler(
        range(num), num_replicas=world, rank=rank, seed=3, grouping="balanced", micro_batch_size=size,
        num_micro_batches=num_micro_batches, lengths=lambda: lengths,
    )  # fmt: skip
    sampler.set_epoch(epoch)
    sampler.start = start
    found = list(sampler)
    assert len(found) == len(sampler) - start
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_packs_hold_the_global_batches_of_the_shuffle(world):
    ranks = [packs(rank=rank, world=world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    whole = [
        sorted(i for rank in ranks for pack in rank[at : at + 3] for i in pack) for at in range(0, len(ranks[0]), 3)
    ]
    assert whole == global_batches("none", world, 2, 3, 50)


@given(start=st.integers(0, 25), rank=st.integers(0, 1), epoch=st.integers(0, 2))
def test_packs_can_be_entered_anywhere(start, rank, epoch):
    whole = packs(epoch, rank=rank, world=2)
    start = min(start, len(whole))
    assert packs(epoch, start=start, rank=rank, world=2) == whole[start:]


def positions_by_hand(world, size, steps, is_packed, **options):
    """What each micro batch of an epoch has, from what the ranks really read."""
    lengths = [abs(length) for length in LENGTHS]
    found = []
    for rank in range(world):
        sampler = (PackedSampler if is_packed else ResumableSampler)(
            range(10), num_replicas=world, rank=rank, micro_batch_size=size, num_micro_batches=steps,
            lengths=lambda: lengths, **options,
        )  # fmt: skip
        read = list(sampler)
        batches = read if is_packed else [read[at : at + size] for at in range(0, len(read), size)]
        found += [
            sum(lengths[i] for i in rows) if is_packed else len(rows) * max(lengths[i] for i in rows)
            for rows in batches
        ]
        assert sorted(sampler.count_positions(lengths)) == sorted(found) or rank < world - 1
    return found, sampler, lengths


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("grouping", ["none", "balanced", "length"])
@pytest.mark.parametrize(("world", "size", "steps"), [(1, 2, 1), (2, 2, 2), (3, 1, 2), (1, 4, 2)])
def test_positions_are_those_of_what_is_read(world, size, steps, grouping, is_packed):
    if is_packed and grouping == "length":
        grouping = "balanced"
    found, sampler, lengths = positions_by_hand(world, size, steps, is_packed, grouping=grouping)
    check_budget(sampler, max(found), num_tokens=lengths, epochs=[0])
    with pytest.raises(InputError, match=f"data.token_budget: expected at most {max(found) - 1} positions"):
        check_budget(sampler, max(found) - 1, num_tokens=lengths, epochs=[0])


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "expected"),
    [(3, -1, 3), (None, -1, 1), (-1, -1, 1), (-1, 10, 4), (-1, 9, 3), (2, 10, 2), (9, 1, 1)],
)
def test_epochs_that_a_trainer_will_begin(max_epochs, max_steps, expected):
    """Twenty samples on two ranks, two at a time, two times a step: three steps an epoch."""
    sampler = ResumableSampler(range(20), num_replicas=2, rank=0, micro_batch_size=2, num_micro_batches=2)
    assert count_epochs(max_epochs, max_steps, sampler) == expected


def test_every_epoch_keeps_the_budget():
    sampler = ResumableSampler(range(3), num_replicas=1, rank=0, micro_batch_size=2)
    num_tokens = [1, 5, 7]
    sizes = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        sizes.append(max(sampler.count_positions(num_tokens)))
    assert set(sizes) == {10, 14}
    sampler.set_epoch(1)
    with pytest.raises(InputError) as caught:
        check_budget(sampler, 12, num_tokens=num_tokens, epochs=range(6))
    assert str(caught.value) == (
        f"data.token_budget: expected at most 12 positions in a micro batch, found one of 14 in epoch "
        f"{sizes.index(14)}; divide data.batch_size (2) by about 2 and multiply trainer.accumulate_grad_batches (1) by "
        "as much, which keeps the global batch, or choose data.is_packed true"
    )
    assert sampler.epoch == 1
