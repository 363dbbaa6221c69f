"""Guards: a comparison that passes runs which learned otherwise, or does not say what differs first.

Runs are written by hand, as `fit` leaves them.
"""

import csv
import json
from math import inf, nan

import pytest
import torch

from llava_pl.app.verify.invariance import Finding, compare, read_run, relative_difference
from llava_pl.app.verify.invariance_splits import Split
from llava_pl.ledger_file import encode_entry, ledger_path
from llava_pl.types import InputError

TWO = Split(2, 1, 2)
LEARNED = {"model.projector.0.weight": [3.0, 4.0], "model.decoder.bias": [0.0, 0.0]}
FROZEN = {"model.vision_encoder.weight": [100.0]}


def write(
    folder,
    samples=(((0, 1), (2, 3)), ((4, 5), (6, 7))),
    losses=(4.0, 3.0),
    norms=(1.0, 2.0),
    val_loss=2.5,
    answers=("A", "B"),
    weights=LEARNED,
):
    """Write a run: for each step the samples of each rank, and so on."""
    for step, ranks in enumerate(samples):
        for rank, indices in enumerate(ranks):
            path = ledger_path(folder, rank)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(encode_entry(step, 0, indices))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "step", "train/grad_norm", "train/loss", "val/loss"])
        writer.writeheader()
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            row = {"epoch": 0, "step": step, "train/loss": loss}
            writer.writerow(row if norm is None else {**row, "train/grad_norm": norm})
        if val_loss is not None:
            writer.writerow({"epoch": 0, "step": len(losses) - 1, "val/loss": val_loss})
    if answers:
        (folder / "predictions").mkdir()
        rows = [{"question_id": str(n), "prompt": "?", "text": text} for n, text in enumerate(answers)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "predictions" / "scienceqa-val-step2.jsonl").write_text(lines)
    (folder / "checkpoints").mkdir()
    state = {name: torch.tensor(values) for name, values in {**weights, **FROZEN}.items()}
    carried = {"data": {}, "learned": [name.removeprefix("model.") for name in LEARNED]}
    torch.save({"state_dict": state, "carried": carried}, folder / "checkpoints" / "last.ckpt")
    return read_run(folder, len(samples[0]))


@pytest.fixture
def one(tmp_path):
    """What one process left."""
    (tmp_path / "one").mkdir()
    return write(tmp_path / "one", samples=(((3, 0, 1, 2),), ((4, 6, 5, 7),)))


@pytest.fixture
def other(tmp_path, one):
    """A maker of comparisons with another run."""

    def make(**settings):
        (tmp_path / "two").mkdir()
        return compare(TWO, one, write(tmp_path / "two", **settings))

    return make


def test_equal_runs(other):
    comparison = other()
    assert comparison.split == TWO
    assert [(f.quantity, f.place, f.difference) for f in comparison.findings] == [
        ("order", "step 0", 0.0),
        ("loss", "step 0", 0.0),
        ("gradient norm", "step 0", 0.0),
        ("order", "step 1", 0.0),
        ("loss", "step 1", 0.0),
        ("gradient norm", "step 1", 0.0),
        ("weights", "model.projector.0.weight", 0.0),
        ("validation", "val/loss", 0.0),
        ("answers", "all", 0.0),
    ]
    assert comparison.first_beyond(0.0) is None


@pytest.mark.parametrize(
    ("settings", "finding"),
    [
        (
            {"losses": (4.0, 3.75), "val_loss": 9.0},
            Finding("loss", "step 1", 0.2, "3 on one rank, 3.75 here"),
        ),
        ({"norms": (1.0, 4.0)}, Finding("gradient norm", "step 1", 0.5, "2 on one rank, 4 here")),
        ({"norms": (1.0, None)}, Finding("gradient norm", "step 1", inf, "2 on one rank, none here")),
        ({"losses": (4.0, nan)}, Finding("loss", "step 1", inf, "3 on one rank, nan here")),
        (
            {"weights": {**LEARNED, "model.decoder.bias": [0.0, 0.5]}},
            Finding("weights", "model.decoder.bias", 0.1, "norm of the difference 0.5, of the weights 5"),
        ),
        (
            {"weights": {"model.projector.0.weight": [3.0, 4.0]}},
            Finding("weights", "model.decoder.bias", inf, "1 tensors are not in both checkpoints, or of other shapes"),
        ),
        ({"val_loss": 5.0}, Finding("validation", "val/loss", 0.5, "2.5 on one rank, 5 here")),
        ({"val_loss": None}, Finding("validation", "val/loss", inf, "2.5 on one rank, none here")),
        (
            {"answers": ("A", "C")},
            Finding(
                "answers",
                "scienceqa-val-step2.jsonl question 1",
                inf,
                "1 of 2 differ: 'B' on one rank, 'C' here",
            ),
        ),
        (
            {"samples": (((0, 1), (2, 8)), ((4, 5), (6, 7))), "losses": (5.0, 3.0)},
            Finding("order", "step 0", inf, "samples [3] on one rank, [8] in their place here"),
        ),
        (
            {"samples": (((0, 1), (2, 3)), ((4, 5), (6, 0)))},
            Finding("order", "step 1", inf, "sample 0 is seen again"),
        ),
        ({"samples": (((0, 1), (1, 3)), ((4, 5), (6, 7)))}, Finding("order", "step 0", inf, "sample 1 is seen again")),
        (
            {"samples": (((0, 1), (2, 3)),), "losses": (4.0,), "norms": (1.0,)},
            Finding("order", "all steps", inf, "2 and 1 steps"),
        ),
    ],
)
def test_what_differs_first(other, settings, finding):
    comparison = other(**settings)
    assert comparison.first_beyond(1e-5) == finding
    assert comparison.largest(finding.quantity) == finding


def test_a_difference_within_the_tolerance_passes(other):
    comparison = other(losses=(4.0, 3.75))
    assert comparison.first_beyond(0.2) is None
    assert comparison.first_beyond(0.19).quantity == "loss"


def test_nothing_to_validate(other, one, tmp_path):
    (tmp_path / "three").mkdir()
    three = write(tmp_path / "three", val_loss=None, answers=())
    comparison = compare(TWO, three, three)
    assert (comparison.largest("validation"), comparison.largest("answers")) == (None, None)


def test_numbers_that_are_none_in_both_runs_are_equal():
    assert relative_difference(nan, nan) == relative_difference(inf, inf) == 0.0
    assert relative_difference(-1.0, 1.0) == 2.0


def test_a_run_without_a_log_of_each_step(tmp_path):
    samples = (((0, 1), (2, 3)), ((4, 5), (6, 7)))
    with pytest.raises(InputError, match=r"expected as many steps in ledger as in metrics\.csv, found 2 and 1$"):
        write(tmp_path, samples=samples, losses=(4.0,), norms=(1.0,))
