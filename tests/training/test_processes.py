"""Guards: several processes that tidy up the same folder, or each choose one of their own."""

import pytest

from llava_pl.training.processes import RANK_VARIABLES, find_launcher, is_first_process, is_started_beside_others


@pytest.fixture(autouse=True)
def _no_others(monkeypatch):
    for name in (*RANK_VARIABLES, "WORLD_SIZE", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", RANK_VARIABLES)
def test_the_first_of_each_kind_is_the_first_of_all(monkeypatch, variable):
    assert is_first_process()
    monkeypatch.setenv(variable, "0")
    assert is_first_process()
    monkeypatch.setenv(variable, "1")
    assert not is_first_process()


@pytest.mark.parametrize(
    ("variables", "num_nodes", "is_beside_others"),
    [
        ({}, 1, False),
        ({}, 2, True),  # a user, on each node
        ({"WORLD_SIZE": "2", "RANK": "0"}, 1, True),  # torchrun
        ({"WORLD_SIZE": "1", "RANK": "0"}, 1, False),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "align"}, 1, True),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, 1, False),
    ],
)
def test_who_starts_processes(monkeypatch, variables, num_nodes, is_beside_others):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_started_beside_others(num_nodes) == is_beside_others


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "8",
            "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, ""),
        ({"WORLD_SIZE": "2", "RANK": "0"}, ""),  # somebody's own script
        ({"TORCHELASTIC_RUN_ID": "none"}, ""),  # what a launcher of another kind left
        (TORCHRUN, "torchrun --nproc-per-node 8 --no-python"),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "2"},
         "torchrun --nnodes 2 --node-rank 0 --master-addr node0 --master-port 29500 --nproc-per-node 8 --no-python"),
        ({"SLURM_NTASKS": "16", "SLURM_NNODES": "2"}, "srun --kill-on-bad-exit=1 --nodes 2 --ntasks 16"),
        ({"SLURM_NTASKS": "16", "SLURM_JOB_NAME": "bash"}, ""),
    ],
)  # fmt: skip
def test_what_started_processes(monkeypatch, variables, words):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_launcher() == words.split()
