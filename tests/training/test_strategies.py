"""Guards: a divided run whose checkpoint is a folder that nobody closed, or of which only one rank could read its part.

Two ranks in earnest are in tests/integration/test_fsdp2.py.
"""

from datetime import timedelta

import pytest
import torch

from llava_pl.cli import main
from llava_pl.export.shards import find_shards, read_shards
from llava_pl.training import strategies
from llava_pl.training.checksum import find_damage
from llava_pl.training.pieces import gather_weights
from llava_pl.training.strategies import FSDP2Strategy
from llava_pl.types import InputError


def test_timeout():
    assert FSDP2Strategy(timeout_minutes=2.5)._timeout == timedelta(seconds=150)


def test_an_object_store_takes_no_folders():
    with pytest.raises(InputError, match=r"checkpoint: s3://a/b.ckpt: expected a path in a file system"):
        FSDP2Strategy().save_checkpoint({}, "s3://a/b.ckpt")


@pytest.fixture
def words(zoo, monkeypatch):
    """Options of a run of one rank, which needs no second process."""
    monkeypatch.chdir(zoo)
    words = ["--config", "config.yaml", "--data.bad_records", "quarantine", "--data.quarantine", "bad.json"]
    assert main(["data", "check", "--config", "config.yaml", "--quarantine", "bad.json"]) == 1
    words += ["--trainer.strategy.class_path", "llava_pl.training.strategies.FSDP2Strategy"]
    return [*words, "--trainer.devices", "1", "--run_dir", "run"]


@pytest.mark.parametrize("in_background", ["true", "false"])
def test_one_device(words, zoo, in_background):
    """Its folder is whole, and it goes on from it."""
    words += ["--save_in_background", in_background]
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 0
    last = zoo / "run" / "checkpoints" / "last.ckpt"
    assert find_damage(last) is None
    content = read_shards(last, lambda path: torch.load(path, weights_only=True))
    assert content["global_step"] == 1
    assert all(type(tensor) is torch.Tensor and tensor.numel() for tensor in content["state_dict"].values())
    assert main(["fit", *words, "--trainer.max_steps", "2", "--ckpt_path", "last"]) == 0
    assert last.resolve().name == "step=2.ckpt"
    # Back to the first step, with the whole model on one device, and once more as before.
    whole = [word for word in words if "strategy" not in word and "FSDP2" not in word]
    for way in (whole, words):
        first = str(zoo / "run" / "checkpoints" / "step=1.ckpt")
        assert main(["fit", *way, "--trainer.max_steps", "2", "--ckpt_path", first]) == 0
        assert find_damage(last) is None
        assert last.is_dir() == (way is words)
    [shard] = find_shards(last)
    shard.write_bytes(shard.read_bytes()[:-1])
    assert find_damage(last) == "found another or an incomplete file"


def test_a_tensor_that_was_not_gathered_whole_is_not_written(words, zoo, monkeypatch, capsys):
    def lose(pieces, *ranks):
        return {name: tensor.new_empty(0) for name, tensor in gather_weights(pieces, *ranks).items()}

    monkeypatch.setattr(strategies, "gather_weights", lose)
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 2
    error = capsys.readouterr().err
    assert "checkpoint: model.projector.0.weight: expected shape (32, 16) from all ranks together, found (0,)" in error
    assert not list((zoo / "run" / "checkpoints").glob("*"))
