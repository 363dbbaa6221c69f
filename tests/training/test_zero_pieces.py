"""Guards: weights in the wrong piece, or states of an optimizer in a form that another one stumbles over.

DeepSpeed is not needed here; what it does with these pieces, `integration/test_deepspeed.py` looks at.
"""

from types import SimpleNamespace

import pytest
import torch

from llava_pl.training.pieces import gather
from llava_pl.training.zero_pieces import _cut, _place


@pytest.mark.parametrize(
    ("num_ranks", "pieces"),
    [
        (1, [[0, 1, 2, 3, 4]]),
        (2, [[0, 1, 2], [3, 4, 0]]),
        (4, [[0, 1], [2, 3], [4, 0], [0, 0]]),
    ],
)
def test_a_whole_is_cut_as_deepspeed_cuts_it(num_ranks, pieces):
    """Equal pieces, the last of them filled up; the last rank may hold nothing but filling."""
    for rank, expected in enumerate(pieces):
        parameter = SimpleNamespace(ds_tensor=torch.empty(len(expected)), ds_zero_partition_rank=rank)
        assert _cut(torch.arange(5).reshape(5, 1), parameter).tolist() == expected


def test_steps_are_counted_as_the_optimizer_counts_them():
    torch_s = torch.optim.AdamW([torch.zeros(1)])
    found = _place("step", torch.tensor(3.0), torch.zeros(2), torch_s)
    assert (found.dtype, found.shape, found.item()) == (torch.float32, (), 3.0)
    own = type("DeepSpeedCPUAdam", (), {"__module__": "deepspeed.ops.adam.cpu_adam"})()
    found = _place("step", torch.tensor(3.0), torch.zeros(2), own)
    assert (type(found), found) == (int, 3)
    assert _place("momentum_buffer", None, torch.zeros(2), torch_s) is None


def test_each_value_is_made_by_all_ranks_and_kept_by_one():
    made = []

    def make_whole(name, is_kept):
        made.append((name, is_kept))
        return name.upper()

    sizes = {"a": 4, "b": 1, "c": 2, "d": 3}
    # Each goes to the rank that has least so far: a | b, c | then d, at 4 against 3 bytes, to the second.
    assert gather(sizes, make_whole, rank=0, num_ranks=2) == {"a": "A"}
    assert gather(sizes, make_whole, rank=1, num_ranks=2) == {"b": "B", "c": "C", "d": "D"}
    assert [name for name, _ in made] == ["a", "b", "c", "d"] * 2
    assert [is_kept for _, is_kept in made] == [True, False, False, False, False, True, True, True]
