"""Guards: a checkpoint of several files is read without one of them, or a half-written one is taken for whole."""

import json

import pytest
import torch

from llava_pl.export.checkpoint_file import read_checkpoint_file
from llava_pl.export.shards import INDEX_FILE, check_no_shard, find_shards, is_sharded, read_shards, shard_path
from llava_pl.run_folder import check_checkpoint
from llava_pl.types import InputError


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two ranks."""
    folder = tmp_path / "step=1.ckpt"
    folder.mkdir()
    for rank in range(2):
        states = {rank: {"step": torch.tensor(3.0), "exp_avg": torch.full((2,), float(rank))}}
        content = {
            "state_dict": {f"model.{'ab'[rank]}": torch.full((2,), 10.0 + rank)},
            "optimizer_states": [{"state": states, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        }
        torch.save(content | {"global_step": 3} | ({"epoch": 1} if rank == 0 else {}), shard_path(folder, rank))
    (folder / INDEX_FILE).write_text(json.dumps({"num_files": 2}))
    return folder


def load(path):
    return torch.load(path, weights_only=True)


def test_content_is_that_of_one_file(folder):
    assert is_sharded(folder)
    content = read_shards(folder, load)
    assert content["global_step"] == 3
    assert content["epoch"] == 1
    assert {name: tensor.tolist() for name, tensor in content["state_dict"].items()} == {
        "model.a": [10.0, 10.0],
        "model.b": [11.0, 11.0],
    }
    [optimizer] = content["optimizer_states"]
    assert optimizer["param_groups"] == [{"lr": 0.1, "params": [0, 1]}]
    assert {number: state["exp_avg"].tolist() for number, state in optimizer["state"].items()} == {
        0: [0.0, 0.0],
        1: [1.0, 1.0],
    }


def test_weights_alone(folder):
    for path in find_shards(folder):
        torch.save({"state_dict": load(path)["state_dict"]}, path)
    assert sorted(read_shards(folder, load)["state_dict"]) == ["model.a", "model.b"]


def test_one_of_its_files_is_no_checkpoint(folder):
    check_no_shard(folder)
    with pytest.raises(InputError, match=r"^x: .*00001\.pt: expected a checkpoint, .* give the folder .*step=1\.ckpt$"):
        check_no_shard(shard_path(folder, 1), "x: ")
    with pytest.raises(InputError, match="found one of its files"):
        read_checkpoint_file(shard_path(folder, 0))
    with pytest.raises(InputError, match=r"^ckpt_path: .*found one of its files"):
        check_checkpoint(shard_path(folder, 0), "ckpt_path")


def test_files_of_two_saves(folder):
    path = shard_path(folder, 1)
    torch.save(load(path) | {"global_step": 2}, path)
    with pytest.raises(InputError, match=r"00001\.pt: expected a file of the same save as 00000\.pt, step 3, found 2$"):
        read_shards(folder, load)


def test_a_save_that_did_not_end(folder):
    (folder / INDEX_FILE).unlink()
    assert not is_sharded(folder)
    with pytest.raises(InputError, match=r"step=1\.ckpt: expected a checkpoint, found a folder without index\.json"):
        find_shards(folder)


def test_a_missing_file(folder):
    shard_path(folder, 1).unlink()
    with pytest.raises(InputError, match=r"step=1\.ckpt: 1 of its 2 files are missing, such as 00001\.pt"):
        find_shards(folder)


@pytest.mark.parametrize("content", [{}, {"num_files": 0}, {"num_files": "2"}])
def test_an_index_that_is_none(folder, content):
    (folder / INDEX_FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index\.json: expected the number of files as 'num_files', found"):
        find_shards(folder)
