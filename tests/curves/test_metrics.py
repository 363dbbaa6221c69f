"""Guards: a run's numbers read wrong, or not at all because a row of them is torn, damaged or no number."""

import math

import pytest

from llava_pl.curves.metrics import Metrics, is_score, read_last, read_metrics
from llava_pl.types import InputError

LOG = """epoch,step,train/loss,val/loss,val/scienceqa/accuracy,val/scienceqa/count
0,9,2.5,,,
0,19,1.5,,,
0,19,,1.75,40.0,500.0
1,29,1.25,,,
"""


@pytest.fixture
def log(tmp_path):
    def write(text):
        (tmp_path / "metrics.csv").write_text(text)
        return tmp_path / "metrics.csv"

    return write


def test_points_of_each_metric(log):
    assert read_metrics(log(LOG)) == Metrics(
        {
            "train/loss": [(9, 2.5), (19, 1.5), (29, 1.25)],
            "val/loss": [(19, 1.75)],
            "val/scienceqa/accuracy": [(19, 40.0)],
            "val/scienceqa/count": [(19, 500.0)],
        }
    )


def test_a_torn_row_is_left_out_and_a_damaged_one_counted(log):
    damaged = LOG.replace("0,19,1.5,,,\n", "0,19,1.5\n0,x,1,,,\n0,19,one,,,\n,,,,,\n")
    found = read_metrics(log(damaged + "1,39,0."))
    assert found.points["train/loss"] == [(9, 2.5), (29, 1.25)]
    assert found.num_damaged == 4
    assert read_last(log(damaged + "1,39,0.")) == (
        29, {"train/loss": 1.25, "val/loss": 1.75, "val/scienceqa/accuracy": 40.0}
    )  # fmt: skip


def test_a_loss_that_is_no_number_is_told(log):
    found = read_metrics(log("step,train/loss\n0,nan\n1,inf\n2,3.0\n")).points["train/loss"]
    assert math.isnan(found[0][1])
    assert found[1:] == [(1, math.inf), (2, 3.0)]
    assert math.isnan(read_last(log("step,train/loss\n0,1.0\n1,nan\n"))[1]["train/loss"])


def test_the_last_values_are_those_of_losses_and_scores(log):
    assert read_last(log(LOG)) == (29, {"train/loss": 1.25, "val/loss": 1.75, "val/scienceqa/accuracy": 40.0})
    assert read_last(log("epoch,step,train/loss\n")) == (-1, {})


def test_a_head_may_be_quoted(log):
    name = 'data/seen/a, "b"'
    assert read_metrics(log('"data/seen/a, ""b""",step\n4.0,9\n')).points == {name: [(9, 4.0)]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val/pope/f1", True), ("test/mme/perception", True), ("val/scienceqa/unparsed", False), ("val/loss", False),
        ("val/scienceqa/grey_image/accuracy", False), ("val/skipped/too_long", False), ("train/loss", False),
    ],
)  # fmt: skip
def test_scores(name, expected):
    assert is_score(name) == expected


def test_what_is_no_log_is_one_line(log, tmp_path):
    with pytest.raises(InputError, match=r"metrics.csv: expected the column 'step' in line 1, found none"):
        read_metrics(log("a,b\n1,2\n"))
    with pytest.raises(InputError, match=r"expected the column 'step'"):
        read_last(log(""))
    with pytest.raises(InputError, match=r"nowhere.csv: no such file; give the folder of a run"):
        read_metrics(tmp_path / "nowhere.csv")
    (tmp_path / "metrics.csv").write_bytes(b"step,\xff\n")
    with pytest.raises(InputError, match=r"metrics.csv: cannot be read \(it is no text\)"):
        read_last(tmp_path / "metrics.csv")
