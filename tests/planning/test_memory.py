"""Guards: what is divided twice, not at all, or counted where it does not lie."""

import pytest

from llava_pl.planning.dry_run import DryRun
from llava_pl.planning.memory import HostMemory, RankMemory, host_memory, rank_memory
from llava_pl.planning.memory_plan import find_largest
from llava_pl.planning.memory_tape import Moment
from llava_pl.planning.optimizer_state import OptimizerBytes
from llava_pl.planning.spread import Spread
from llava_pl.planning.weights import WeightBytes

WEIGHTS = WeightBytes(
    whole=100, divisible=4000, trained=4000, num_trained=1000, num_weights=1050, streamed=3600,
    largest_unit=300, gathered=700, gathered_gradients=300, bucket=30, dequantized=0,
)  # fmt: skip
OPTIMIZER = OptimizerBytes(states=8000, update=50)
# On the way back activations are let go while gradients come.
RUN = DryRun([Moment(10, 0), Moment(2000, 0)], [Moment(2100, 0), Moment(900, 3000), Moment(20, 4000)], 4000)
ZERO2 = {"gradients": "pieces", "states": "pieces"}
PIECES = {"weights": "pieces", "gradients": "pieces", "states": "pieces"}


def memory(spread, **more):
    return rank_memory(WEIGHTS, OPTIMIZER, RUN, spread, **{"accumulates": False, "is_fused": True} | more)


def test_one_device():
    # Forward: 4,100 weights, 8,000 states, 4,000 gradients of the step before, 2,000 activations.
    assert memory(Spread("single")) == RankMemory(4100, 4000, 8000, 0, 2100, 18100, "forward")


def test_accumulated_gradients_are_there_on_the_way_back():
    found = memory(Spread("single"), accumulates=True)
    assert (found.peak, found.peak_at) == (4100 + 8000 + 4000 + 2100, "backward")


def test_buckets_are_never_given_back():
    assert memory(Spread("ddp", 1, 2, has_buckets=True)).peak == 4100 + 8000 + 4000 + 2100
    copied = memory(Spread("ddp", 1, 2, has_buckets=True, has_gradient_copy=True))
    assert (copied.gradients, copied.peak) == (8000, 4100 + 8000 + 8000 + 2000)


def test_pieces():
    found = memory(Spread("fsdp2", 1, 4, **PIECES))
    assert (found.weights, found.gradients, found.states) == (100 + 1000, 1000, 2000)
    assert found.gathered == 700 + 300
    # Forward: 1,100 + 2,000 + 700 + 1,000 of gradients + 2,000; backward: 1,100 + 2,000 + 700 + 300 + 2,100.
    assert (found.peak, found.peak_at) == (6800, "forward")


def test_zero_has_float32_copies_in_the_states():
    found = memory(Spread("zero3", 1, 4, **PIECES, has_master=True))
    assert found.states == (8000 + 4 * 1000) / 4
    assert found.gathered == 2 * 1050 + 2 * 2 * 30
    assert found.weights == 4100 / 4  # a frozen encoder is divided, too


def test_offload():
    places = {"gradients": "host", "states": "host"}
    spread = Spread("zero2_offload", 1, 4, **places, has_master=True)
    found = memory(spread)
    assert (found.weights, found.gradients, found.states) == (4100, 0, 0)
    run = DryRun([Moment(1, 0)], [Moment(1, 0)], 4000)
    zero2 = Spread("zero2", 1, 4, **ZERO2, has_master=True)
    update = rank_memory(WEIGHTS, OPTIMIZER, run, zero2, accumulates=False, is_fused=True)
    assert (update.peak_at, update.peak) == (
        "update",
        4100 + 1000 + 3000 + 1000,
    )  # gradients as they are and in float32
    assert host(spread).offloaded == 8000 + 4000 + 4000
    zero3 = Spread("zero3_offload", 1, 4, "host", **places, has_master=True)
    assert host(zero3).offloaded == 8000 + 4000 + 4000 + 2 * 1050  # weights in half precision


def test_an_update_that_is_not_fused_needs_room():
    run = DryRun([Moment(1, 0)], [Moment(1, 0)], 4000)
    for is_fused, expected in ((True, 16101), (False, 16150)):
        found = rank_memory(WEIGHTS, OPTIMIZER, run, Spread("single"), accumulates=False, is_fused=is_fused)
        assert found.peak == expected


def host(spread, *, is_device=False):
    return host_memory(WEIGHTS, OPTIMIZER, spread, is_device=is_device)


def test_copies_are_read_whole_by_each_rank_of_a_machine():
    assert host(Spread("ddp", 2, 4)) == HostMemory(4 * 4100, 0, 12000, 12000)
    assert host(Spread("zero2", 2, 4, **ZERO2)).loading == 4 * 4100


def test_pieces_are_taken_from_files():
    fsdp2, zero3 = Spread("fsdp2", 2, 4, **PIECES), Spread("zero3", 2, 4, **PIECES)
    # 500 bytes are not the decoder's. Where the host computes, an eighth of it and of its largest layer lie there, too.
    assert host(fsdp2) == HostMemory(4 * 500, 0, 6000, 12000)
    assert host(fsdp2, is_device=True).loading == 4 * (500 + 450 + 38)
    assert host(zero3).loading == 4 * (500 + 300)  # a layer is read whole
    assert host(Spread("zero3_offload", 2, 4, "host", "host", "host")).loading == 4 * (500 + 450 + 300)


def test_what_zero_2_divides_is_saved_by_all():
    assert host(Spread("zero2", 2, 4, **ZERO2)).saving == 6000


@pytest.mark.parametrize("start", [1, 7, 36, 37, 38, 500, -3])
@pytest.mark.parametrize("answer", [0, 1, 37, 1024])
def test_the_largest_is_found_from_anywhere(start, answer):
    assert find_largest(lambda number: number <= answer, start=start) == answer
