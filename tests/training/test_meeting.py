"""Guards: ranks that wait for each other forever because they begin different runs, or never meet."""

import socket
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import DistNetworkError

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE
from llava_pl.training.meeting import MeetRanks
from llava_pl.types import InputError


def trainer_of(content="abc", *, fn="fit", world_size=2):
    data = SimpleNamespace(train_data=SimpleNamespace(content=content), grouping="none", seed=3)
    return SimpleNamespace(world_size=world_size, global_rank=0, datamodule=data, state=SimpleNamespace(fn=fn))


@pytest.fixture
def others(monkeypatch):
    """What the second rank says; the first says what it finds."""
    said = {"checkpoint": "step=4.ckpt", "training data": "abc", "order": "none, seed 3"}
    monkeypatch.setattr("llava_pl.training.meeting.name_order", lambda grouping, seed: f"{grouping}, seed {seed}")

    def gather(found, mine):
        found[:] = [mine, {name: said[name] for name in mine}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    return said


def test_ranks_that_agree(others, tmp_path):
    (tmp_path / "step=4.ckpt").touch()
    (tmp_path / "last.ckpt").symlink_to("step=4.ckpt")
    MeetRanks(str(tmp_path / "last.ckpt")).setup(trainer_of(), None, "fit")
    MeetRanks("step=4.ckpt").setup(trainer_of(None, fn="validate"), None, "validate")


@pytest.mark.parametrize(
    ("checkpoint", "content", "words"),
    [
        (None, "abc", "the same checkpoint, found none and step=4.ckpt; "),
        ("step=4.ckpt", "xyz", "the same training data, found xyz and abc; "),
    ],
)
def test_ranks_that_do_not(others, checkpoint, content, words):
    with pytest.raises(InputError, match=r"^ranks 0 and 1 of 2 do not begin the same run: expected ") as error:
        MeetRanks(checkpoint).setup(trainer_of(content), None, "fit")
    assert words in str(error.value)


def test_a_single_rank_asks_nobody():
    MeetRanks(None).setup(trainer_of(world_size=1), None, "fit")


def test_ranks_that_do_not_reach_each_other():
    """As gloo says it where a machine's name stands for an address that others do not see."""
    error = RuntimeError("Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: remote=[127.0.0.1]:6578")
    with pytest.raises(InputError, match=r"^rank 0 of 2 does not reach another one: Gloo .*; set GLOO_SOCKET_IFNAME"):
        MeetRanks(None).on_exception(trainer_of(), None, error)


@pytest.mark.parametrize("error", [DistNetworkError("connection timed out"), RuntimeError("shapes do not match")])
def test_other_errors_stay_what_they_are(error):
    MeetRanks(None).on_exception(trainer_of(), None, error)


def test_a_taken_port_is_one_line(zoo, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": "0"}
        for name, value in {**variables, "WORLD_SIZE": "2", "RANK": "0", RUN_DIR_VARIABLE: ""}.items():
            monkeypatch.setenv(name, value)  # Lightning sets some of them, too
        monkeypatch.chdir(zoo)
        assert main(["fit", "--config", "config.yaml", "--run_dir", "run", "--trainer.num_nodes", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"llava-pl: error: MASTER_PORT: {port}: another program listens on this port of 127.0.0.1, a run that has not "
        "ended perhaps; set MASTER_PORT to a free one, the same on all nodes"
    )
