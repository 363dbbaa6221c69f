"""Guards: a table that hides what differs, or a verdict that does not name it."""

import io
from math import inf

from rich.console import Console

from llava_pl.app.verify.invariance import Comparison, Finding
from llava_pl.app.verify.invariance_plan import InvariancePlan
from llava_pl.app.verify.invariance_splits import Split, Validation
from llava_pl.app.verify.invariance_terminal import is_invariant, print_comparisons, to_json

SPLITS = (Split(1, 2, 4), Split(2, 1, 4), Split(1, 4, 2))
PLAN = InvariancePlan(SPLITS, 4, Validation(7, 4), 1e-5, "trainer.precision 32-true", ("a note",), {})
GOOD = Comparison(
    SPLITS[1],
    (
        Finding("order", "step 0", 0.0, "the same 8 samples"),
        Finding("loss", "step 0", 0.0, "4 on one rank, 4 here"),
        Finding("loss", "step 1", 2.1e-7, "3 on one rank, 3.1 here"),
        Finding("answers", "all", 0.0, "7 equal"),
    ),
)
BAD = Comparison(
    SPLITS[2],
    (
        Finding("order", "step 0", 0.0, "the same 8 samples"),
        Finding("loss", "step 1", 0.25, "3 on one rank, 4 here"),
        Finding("order", "step 2", inf, "samples [1] on one rank, [2] in their place here"),
        Finding("answers", "a.jsonl question 1", inf, "1 of 7 differ: 'A\x1b' on one rank, 'B' here"),
    ),
)


def shown(comparisons):
    file = io.StringIO()
    print_comparisons(PLAN, comparisons, Console(file=file, width=100, color_system=None))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    bar = "\u2502"
    return lines, [[cell.strip() for cell in line.strip(bar).split(bar)] for line in lines if bar in line]


def test_runs_that_agree():
    lines, table = shown([GOOD])
    assert lines[0] == "4 steps, against 1 rank x 2 x 4 (ranks x micro batches x samples)"
    assert table == [
        ["order", "equal"],
        ["loss", "2.1e-07"],
        ["gradient norm", "-"],
        ["weights", "-"],
        ["validation", "-"],
        ["answers", "equal"],
    ]
    assert lines[-1] == "invariant: the largest difference is 2.1e-07, tolerance 1e-05 (trainer.precision 32-true)"
    assert is_invariant(PLAN, [GOOD])


def test_runs_that_differ():
    lines, table = shown([GOOD, BAD])
    assert table[0] == ["order", "equal", "differs"]
    assert table[1] == ["loss", "2.1e-07", "2.5e-01"]
    assert table[5] == ["answers", "equal", "differs"]
    assert lines[-1] == (
        "1 rank x 4 x 2 differs first in loss, step 1, 2.5e-01: 3 on one rank, 4 here; "
        "tolerance 1e-05 (trainer.precision 32-true)"
    )
    assert not is_invariant(PLAN, [GOOD, BAD])


def test_text_of_a_model_cannot_paint_the_terminal():
    lines, _ = shown([Comparison(SPLITS[2], BAD.findings[3:])])
    assert "differs first in answers, a.jsonl question 1: 1 of 7 differ: 'A\\x1b' on one rank" in lines[-1]


def test_json():
    found = to_json(PLAN, [GOOD, BAD])
    assert found["comparisons"][0]["first_beyond"] is None
    bad = found.pop("comparisons")[1]
    assert found == {
        "is_invariant": False,
        "tolerance": 1e-5,
        "tolerance_of": "trainer.precision 32-true",
        "num_steps": 4,
        "num_validated": 7,
        "reference": "1 rank x 2 x 4",
        "notes": ["a note"],
    }
    loss = {"quantity": "loss", "place": "step 1", "difference": 0.25, "values": "3 on one rank, 4 here"}
    assert (bad["split"], bad["first_beyond"], list(bad["largest"])) == (
        "1 rank x 4 x 2",
        loss,
        ["order", "loss", "answers"],
    )
    assert bad["largest"]["order"]["difference"] is None
