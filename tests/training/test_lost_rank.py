"""Guards: a rank that shows a page of torch because another one has ended, or one of ours taken for that."""

from types import SimpleNamespace

import pytest
from torch.distributed import DistBackendError

from llava_pl.training.lost_rank import NameLostRank, is_lost_rank
from llava_pl.training.shard_writing import RANK_IS_LOST
from llava_pl.types import InputError

TRAINER = SimpleNamespace(world_size=2, global_rank=1, global_step=7)


@pytest.fixture(autouse=True)
def _no_rank_stays_lost():
    yield
    RANK_IS_LOST.clear()


def test_one_line_names_rank_step_and_samples():
    callback = NameLostRank()
    callback.on_train_batch_start(TRAINER, None, {"ids": ["a", "b"]}, 0)
    with pytest.raises(
        InputError,
        match=r"^rank 1 of 2: another rank has ended or does not answer, at step 7, samples a, b; its own message",
    ):
        callback.on_exception(TRAINER, None, DistBackendError("NCCL error"))
    assert RANK_IS_LOST.is_set()
    callback.setup(TRAINER, None, "fit")
    assert not RANK_IS_LOST.is_set()


def test_before_the_first_batch():
    error = RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:35523")
    with pytest.raises(InputError, match="does not answer, at step 7; its own message"):
        NameLostRank().on_exception(TRAINER, None, error)


@pytest.mark.parametrize(
    ("module", "is_lost"),
    [("torch.distributed.distributed_c10d", True), ("torch.distributed.tensor._dispatch", False), ("torch.nn", False)],
)
def test_an_error_is_known_by_where_it_was_raised(module, is_lost):
    names = {"__name__": module}
    exec("def wait():\n    raise RuntimeError('Timed out')", names)
    with pytest.raises(RuntimeError, match="Timed out") as found:
        names["wait"]()
    assert is_lost_rank(found.value) == is_lost


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), InputError("records.json: line 3")])
def test_other_errors_stay_what_they_are(error):
    NameLostRank().on_exception(TRAINER, None, error)


def test_a_single_rank_has_no_other():
    NameLostRank().on_exception(SimpleNamespace(world_size=1), None, DistBackendError("NCCL error"))
