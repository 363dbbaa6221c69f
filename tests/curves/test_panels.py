"""Guards: a curve that shows other numbers than the log has, or hides that some are missing."""

import math

import pytest

from llava_pl.curves import panels
from llava_pl.curves.metrics import Metrics
from llava_pl.curves.panels import make_panels, smoothed


def points(*values, start=9, every=10):
    return [(start + every * place, value) for place, value in enumerate(values)]


def make(**metrics):
    return make_panels({"": Metrics({name.replace("__", "/"): each for name, each in metrics.items()})})


def test_panels_and_their_lines():
    found = make(
        train__loss=points(2.0, 1.0), val__loss=points(1.5, start=19), lr__decay=points(0.1, 0.0),
        lr__no_decay=points(0.1, 0.0), lr__projector_decay=points(0.2, 0.0), perf__mfu=points(0.25, 0.5),
        perf__tokens_per_s=points(100.0, 110.0), train__grad_norm=points(1.0, 2.0),
        val__scienceqa__accuracy=points(40.0, 50.0), val__scienceqa__count=points(4.0, 4.0),
        val__pope__f1=points(80.0, 81.0), val__pope__accuracy=points(80.0, 82.0),
        data__seen__records=points(1.0, 2.0),
    )  # fmt: skip
    assert [(panel.title, panel.unit, [line.label for line in panel.lines]) for panel in found] == [
        ("loss", "per supervised token", ["train/loss", "val/loss"]),
        ("learning rate", "per step", ["decay, no_decay", "projector_decay"]),
        ("gradient norm", "before clipping", ["train/grad_norm"]),
        ("throughput", "tokens / s", ["perf/tokens_per_s"]),
        ("use of the device", "%", ["mfu"]),
        ("scores of pope", "as reported, mostly %", ["val/pope/accuracy", "val/pope/f1"]),
        ("val/scienceqa/accuracy", "as reported, mostly %", ["val/scienceqa/accuracy"]),
    ]
    loss = found[0].lines
    assert (loss[0].steps, loss[0].values, loss[0].smooth) == ((9, 19), (2.0, 1.0), None)
    assert [(line.colour, line.dash) for line in loss] == [(0, 0), (1, 1)]
    assert found[4].lines[0].values == (25.0, 50.0)
    assert found[0].limits == (0.0, 2.16)


def test_one_point_is_no_curve():
    assert make(train__loss=points(2.0), val__loss=points(1.0)) == []
    assert make() == []


def test_runs_over_each_other():
    log = Metrics({"train/loss": points(2.0, 1.0)})
    validated = Metrics({"train/loss": points(3.0, 1.0), "val/loss": points(1.0, 1.0)})
    assert [line.label for line in make_panels({"a": log, "b": log})[0].lines] == ["a", "b"]
    lines = make_panels({"a": log, "b": validated})[0].lines
    assert [(line.label, line.colour, line.dash) for line in lines] == [
        ("a: train/loss", 0, 0), ("b: train/loss", 1, 0), ("b: val/loss", 1, 1)
    ]  # fmt: skip


def test_what_is_no_number_is_left_out_and_told():
    (loss,) = make(train__loss=points(2.0, math.nan, 1.0, math.inf))
    assert (loss.lines[0].steps, loss.lines[0].values) == ((9, 29), (2.0, 1.0))
    assert loss.notes == ("train/loss: no finite number in 2 rows, first at step 19",)
    (loss,) = make(train__loss=points(math.nan, math.nan))
    assert (loss.lines, loss.notes) == ((), ("train/loss: no finite number in 2 rows, first at step 9",))


def test_smoothing_keeps_a_straight_line_within():
    line = [float(value) for value in range(100)]
    assert smoothed(line)[1:-1] == line[1:-1]
    assert smoothed([1.0] * 50) == [1.0] * 50
    (loss,) = make(train__loss=points(*[2.0] * 30))
    assert loss.lines[0].smooth == (2.0,) * 30


def test_of_many_points_the_extremes_stay(monkeypatch):
    monkeypatch.setattr(panels, "MOST_RAW", 4)
    monkeypatch.setattr(panels, "LEAST_SMOOTHED", 8)
    (loss,) = make(train__loss=points(6.0, 5.0, 9.0, 4.0, 3.0, 2.0, 0.5, 1.0))
    assert (loss.lines[0].steps, loss.lines[0].values) == ((9, 29, 39, 49, 69, 79), (6.0, 9.0, 4.0, 3.0, 0.5, 1.0))
    assert loss.lines[0].smooth == tuple(
        smoothed([6.0, 5.0, 9.0, 4.0, 3.0, 2.0, 0.5, 1.0])[at] for at in (0, 2, 3, 4, 6, 7)
    )
    assert loss.lines[0].extent == (6.0, 1.0, 0.5, 9.0)
    assert len(panels._thin([1.0] * 99)) <= 6


def test_a_loss_of_several_sizes_is_logarithmic_and_a_spike_is_cut_off():
    (wide,) = make(train__loss=points(*(10.0 / 2**power for power in range(10))))
    assert wide.is_log
    (spiky,) = make(train__grad_norm=points(*[1.0] * 200, 900.0))
    assert not spiky.is_log
    assert spiky.limits == pytest.approx((0.0, 1.62))
    assert spiky.notes == ("values up to 900 lie above the axis",)
    (zero,) = make(train__loss=points(0.0, 0.0))
    assert zero.limits == (0.0, 1.0)
    (flat,) = make(val__pope__f1=points(50.0, 50.0))
    assert flat.limits == (47.5, 52.5)
