"""Guards: a picture without its axes, units or legend, or one that a strange name breaks."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from llava_pl.curves.figure import draw_panel, make_figure
from llava_pl.curves.metrics import Metrics
from llava_pl.curves.panels import make_panels

NOISY = [(step, 2.0 + step % 2) for step in range(40)]


def draw(runs):
    axis = Figure().subplots()
    draw_panel(axis, make_panels(runs)[0])
    return axis


def test_a_line_is_smoothed_over_its_faint_rows():
    axis = draw({"": Metrics({"train/loss": NOISY, "val/loss": [(10, 2.0), (39, 1.0)]})})
    raw, smooth, val = axis.lines
    assert [tuple(raw.get_xdata()), tuple(raw.get_ydata())] == [tuple(range(40)), tuple(y for _, y in NOISY)]
    assert raw.get_alpha() < 0.5
    assert 2.3 < min(smooth.get_ydata()[1:-1]) <= max(smooth.get_ydata()[1:-1]) < 2.7
    assert tuple(val.get_ydata()) == (2.0, 1.0)
    assert (axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) == ("loss", "step", "per supervised token")
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["train/loss", "val/loss"]


def test_a_long_legend_lies_below_and_makes_the_figure_taller():
    one, four = (
        Metrics({f"val/pope/{number}": [(0, 1.0), (1, float(number))] for number in range(count)}) for count in (1, 4)
    )
    axis = draw({"": four})
    axis.figure.draw_without_rendering()
    assert axis.get_legend().get_window_extent().y1 < axis.get_window_extent().y0
    heights = [make_figure(make_panels({"": metrics})).get_figheight() for metrics in (one, four)]
    assert heights == pytest.approx([3.4, 3.4 + 4 * 0.17])


def test_nothing_but_a_note():
    axis = draw({"": Metrics({"train/loss": [(0, float("nan"))]})})
    assert [text.get_text() for text in axis.texts] == ["train/loss: no finite number in 1 row, first at step 0"]
    assert (axis.lines[:], list(axis.get_xticks()), list(axis.get_yticks())) == ([], [], [])


def test_scale_and_notes():
    axis = draw({"": Metrics({"train/loss": [(step, 10.0 / 2**step) for step in range(9)]})})
    assert axis.get_yscale() == "log"
    axis = draw({"": Metrics({"train/loss": [(0, 1.0), (1, float("nan")), (2, 1.0)]})})
    assert [text.get_text() for text in axis.texts] == ["train/loss: no finite number in 1 row, first at step 1"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_names_are_no_formulas(tmp_path, count):
    runs = {f"_a$b{chr(7)}{number}": Metrics({"train/loss": NOISY}) for number in range(2)}
    panels = make_panels(runs) * count
    make_figure(panels, "$x^{_").savefig(tmp_path / "curves.png", dpi=150)
    with Image.open(tmp_path / "curves.png") as picture:
        assert (picture.format, picture.width >= 800) == ("PNG", True)
