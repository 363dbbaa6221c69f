"""Guards: ranks that do the same work at once, or wait for each other forever."""

from types import SimpleNamespace

import pytest

from llava_pl.training.turns import Turns, take_turns


@pytest.mark.parametrize(
    ("global_rank", "local_rank", "expected"),
    [
        (0, 0, ["work", "met", "met", "met"]),
        (2, 0, ["met", "work", "met", "met"]),
        (1, 1, ["met", "met", "work", "met"]),
    ],
)
def test_the_first_rank_works_then_the_first_of_each_node_then_the_others(global_rank, local_rank, expected):
    done = []
    trainer = SimpleNamespace(is_global_zero=global_rank == 0, local_rank=local_rank)
    assert Turns(trainer, lambda: done.append("met")).take(lambda: done.append("work")) is None
    assert done == expected


def test_one_rank_waits_for_nobody():
    with take_turns(SimpleNamespace(world_size=1, is_global_zero=True, local_rank=0)) as turns:
        turns.meet()
        assert turns.take(lambda: 7) == 7
