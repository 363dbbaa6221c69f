"""Guards: curves that are not where one looks for them, half written, or drawn of nothing."""

import pytest

from llava_pl.curves.draw import draw_run, draw_together
from llava_pl.types import InputError


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("step,train/loss\n0,2.0\nx,y\n1,1.0\n")
    return tmp_path / "run"


def test_a_run_gets_a_picture_and_a_page(run):
    assert draw_run(run, "runs/a, stage align") == [run / "curves.png", run / "curves.html"]
    assert sorted(path.name for path in run.iterdir()) == ["curves.html", "curves.png", "metrics.csv"]
    page = (run / "curves.html").read_text()
    assert "<h1>runs/a, stage align</h1>" in page
    assert "damaged rows of metrics.csv that were left out: 1" in page
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_one_row(run):
    (run / "metrics.csv").write_text("step,train/loss\n0,2.0\n")
    assert draw_run(run, "x") == []
    assert [path.name for path in run.iterdir()] == ["metrics.csv"]


def test_runs_together(run, tmp_path):
    draw_together({"a": run, "b": run}, "both", tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "loss: a" in page
    assert "loss: b" in page
    draw_together({"a": run}, "one", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match=r"--curves: x.pdf: expected a name that ends in .html or .png"):
        draw_together({"a": run}, "x", tmp_path.relative_to(tmp_path) / "x.pdf")
    (run / "metrics.csv").write_text("step,train/loss\n")
    with pytest.raises(InputError, match=r"expected a metric with two points, found none"):
        draw_together({"a": run}, "x", tmp_path / "x.png")
    with pytest.raises(InputError, match="no such file"):
        draw_run(tmp_path, "x")
