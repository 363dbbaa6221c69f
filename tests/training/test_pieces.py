"""Guards: a tensor that no rank brings to a checkpoint, that two bring, or of which a rank takes another's part.

Two ranks in earnest are in tests/integration/test_fsdp2.py; here one process is each of them in turn.
"""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from llava_pl.training.pieces import divide_optimizer, fill, fill_rows, gather_optimizer, gather_weights


@pytest.fixture(params=[0, 1, 2])
def mesh(request):
    """Three ranks that do nothing, seen from each of them."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=request.param, world_size=3, store=FakeStore())
    yield init_device_mesh("cpu", (3,))
    torch.distributed.destroy_process_group()


WEIGHTS = {"a": torch.ones(6), "b": torch.full((2, 2), 2.0), "c": torch.full((1,), 3.0), "d": torch.full((3,), 4.0)}


def test_each_rank_gets_what_evens_the_sizes():
    # 6 to the first, 4 to the second, 1 to the third, which then has least, and gets 3 more.
    ranks = [gather_weights(WEIGHTS, rank, 3) for rank in range(3)]
    assert [list(rank) for rank in ranks] == [["a"], ["b"], ["c", "d"]]
    assert all(rank[name] is not None and torch.equal(rank[name], WEIGHTS[name]) for rank in ranks for name in rank)


def test_one_rank_gets_everything():
    assert list(gather_weights(WEIGHTS, 0, 1)) == list(WEIGHTS)


def test_what_is_gathered_learns_no_more():
    [weight] = gather_weights({"a": torch.nn.Parameter(torch.ones(2))}, 0, 1).values()
    assert not weight.requires_grad


def test_what_is_gathered_stays_while_the_run_goes_on():
    weight, state = torch.ones(2), {"step": torch.tensor(1.0), "exp_avg": torch.ones(2)}
    [kept] = gather_weights({"a": weight}, 0, 1).values()
    [states] = gather_optimizer({"state": {0: state}, "param_groups": []}, 0, 1)["state"].values()
    for tensor in (weight, *state.values()):
        tensor += 1
    assert [kept.tolist(), states["step"].item(), states["exp_avg"].tolist()] == [[1.0, 1.0], 1.0, [1.0, 1.0]]


def test_states_of_a_parameter_stay_together():
    states = {number: {"step": torch.tensor(5.0), "exp_avg": torch.ones(number + 1)} for number in range(3)}
    state_dict = {"state": {**states, 3: {}}, "param_groups": [{"lr": 0.1, "params": [0, 1, 2, 3]}]}
    first, second = (gather_optimizer(state_dict, rank, 2) for rank in range(2))
    # 2, 3 and 4 numbers: the third goes where less is; one without any still belongs to somebody.
    assert (list(first["state"]), list(second["state"])) == ([0, 2], [1, 3])
    assert first["param_groups"] == second["param_groups"] == state_dict["param_groups"]
    assert first["state"][2]["step"] == 5
    assert first["state"][2]["exp_avg"].tolist() == [1.0, 1.0, 1.0]


def test_a_rank_takes_those_rows_of_tokens_that_it_has(mesh):
    table = DTensor.from_local(
        torch.zeros(len(ROWS[5][mesh.get_local_rank()]), 2),
        mesh,
        [Shard(0)],
        run_check=False,
        shape=(5, 2),
        stride=(2, 1),
    )
    fill_rows(table, [3, 4, 0], torch.tensor([[3.0, 3.0], [4.0, 4.0], [9.0, 9.0]]))
    expected = {0: [9.0, 0.0], 1: [0.0, 3.0], 2: [4.0]}[mesh.get_local_rank()]
    assert table.to_local()[:, 1].tolist() == expected


def test_rows_of_a_table_that_is_whole():
    table = torch.zeros(3, 1)
    fill_rows(table, [2, 0], torch.tensor([[2.0], [1.0]]))
    assert table.tolist() == [[1.0], [0.0], [2.0]]


# Rows of each rank: three parts of 2, 2 and 1, as torch.chunk makes them; of two rows, the last rank has none.
ROWS = {5: [[0, 1], [2, 3], [4]], 2: [[0], [1], []]}


@pytest.mark.parametrize("num_rows", ROWS)
def test_a_rank_takes_its_own_part(mesh, num_rows):
    rank = mesh.get_local_rank()
    whole = torch.arange(num_rows * 2.0).reshape(num_rows, 2)
    piece = distribute_tensor(torch.zeros(num_rows, 2), mesh, [Shard(0)], src_data_rank=None)
    fill(piece, whole)
    assert torch.equal(piece.to_local(), whole[ROWS[num_rows][rank]])


def test_what_is_not_divided_is_filled_whole(mesh):
    whole = torch.tensor([1.0, 2.0])
    piece = distribute_tensor(torch.zeros(2), mesh, [Replicate()], src_data_rank=None)
    plain = torch.nn.Parameter(torch.zeros(2))
    fill(piece, whole)
    fill(plain, whole)
    assert torch.equal(piece.to_local(), whole)
    assert torch.equal(plain, whole)


def test_an_optimizer_is_divided_as_its_parameters(mesh):
    rank = mesh.get_local_rank()
    parameters = [distribute_tensor(torch.zeros(5, 2), mesh, [Shard(0)], src_data_rank=None), torch.zeros(3)]
    averages = [torch.arange(10.0).reshape(5, 2), torch.ones(3)]
    states = {number: {"step": torch.tensor(7.0), "exp_avg": average} for number, average in enumerate(averages)}
    divided = divide_optimizer({"state": states, "param_groups": []}, parameters)["state"]
    first = divided[0]["exp_avg"]
    assert isinstance(first, DTensor)
    assert (first.shape, first.placements) == ((5, 2), (Shard(0),))
    assert torch.equal(first.to_local(), averages[0][ROWS[5][rank]])
    assert (divided[0]["step"], divided[1]["step"]) == (7, 7)
    assert divided[1]["exp_avg"] is averages[1]
