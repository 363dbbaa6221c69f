"""Risk: a peer that does other work is timed all the same, or one that is missing is passed over in silence."""

import sys
from pathlib import Path

import pytest
import torch
from harness import Environments
from train_step import check_equal, make_commands

FOLDER = Path("folder")


@pytest.fixture
def paths(tmp_path):
    torch.save({"a": torch.tensor([3.0, 4.0])}, tmp_path / "ours.pt")
    return tmp_path / "ours.pt", tmp_path / "theirs.pt"


def test_equal_first_steps_pass(paths):
    torch.save({"a": torch.tensor([3.0, 4.0004])}, paths[1])
    assert check_equal("TRL", 6.0, 6.000005, *paths) == "TRL: loss 6.000005 differs by 5.0e-06, gradients by 8.0e-05"


@pytest.mark.parametrize(
    ("loss", "gradients", "message"),
    [
        (6.0001, {"a": torch.tensor([3.0, 4.0])}, "TRL: loss 6.000100 differs by 1.0e-04"),
        (6.0, {"a": torch.tensor([3.0, 4.001])}, "gradients by 2.0e-04; expected at most"),
        (float("nan"), {"a": torch.tensor([3.0, 4.0])}, "expected at most"),
        (6.0, {"a": torch.tensor([3.0, float("nan")])}, "gradients by nan; expected at most"),
        (6.0, {"a": torch.tensor([3.0, 4.0]), "b": torch.ones(1)}, r"TRL: other parameters learn: \['b'\]"),
    ],
)
def test_others_stop_the_run(paths, loss, gradients, message):
    torch.save(gradients, paths[1])
    with pytest.raises(SystemExit, match=message):
        check_equal("TRL", 6.0, loss, *paths)


def test_no_number_in_a_later_gradient_stops_the_run(tmp_path):
    for name, value in (("ours", 1.0), ("theirs", float("nan"))):
        torch.save({"a": torch.ones(2), "b": torch.tensor([value])}, tmp_path / name)
    with pytest.raises(SystemExit, match="gradients by nan; expected at most"):
        check_equal("TRL", 6.0, 6.0, tmp_path / "ours", tmp_path / "theirs")


def test_peers_that_are_not_at_hand_keep_their_rows():
    commands = make_commands(FOLDER, "align", Environments(), is_full=True)
    assert {way: command is not None for way, command in commands.items()} == {
        "transformers": True,
        "TRL": False,
        "original": False,
        "TRL, not recomputed": False,
        "original, not recomputed": False,
    }
    assert commands["transformers"][:1] + commands["transformers"][2:] == [
        sys.executable,
        "folder",
        "align",
        "transformers",
    ]


def test_recomputing_is_the_way_of_two_peers():
    places = Environments(Path("trl/python"), Path("original/python"), Path("LLaVA"))
    commands = make_commands(FOLDER, "finetune", places, is_full=False)
    assert {way: command[2:] for way, command in commands.items()} == {
        "transformers": ["folder", "finetune", "transformers"],
        "TRL": ["folder", "finetune", "trl", "recomputed"],
        "original": ["folder", "finetune", "LLaVA", "recomputed"],
    }
