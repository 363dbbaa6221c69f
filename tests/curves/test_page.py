"""Guards: a page that needs the network or a script, is broken by a name, or draws a point where it is not."""

import re
import xml.etree.ElementTree as ElementTree

from llava_pl.curves.metrics import Metrics
from llava_pl.curves.page import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, curves_page
from llava_pl.curves.panels import make_panels

METRICS = Metrics({"train/loss": [(0, 4.0), (100, 2.0)], "val/loss": [(100, 3.0)]})


def drawings(page):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg viewBox.*?</svg>", page, flags=re.DOTALL)]


def test_points_lie_where_they_belong():
    panels = make_panels({"": METRICS})
    paths = [path.get("d") for path in drawings(curves_page(panels, "x"))[0].iter("path") if path.get("stroke")]
    (x1, y1), (x2, y2) = [map(float, pair.split()) for pair in paths[0].removeprefix("M").split("L")]
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    # The axis shows steps -2 to 102 and values 0 to 4.32; numbers are written with one digit behind the point.
    assert abs(x1 - (LEFT + 2 / 104 * width)) <= 0.05
    assert abs(x2 - (LEFT + 102 / 104 * width)) <= 0.05
    assert abs(y1 - (TOP + 0.32 / 4.32 * height)) <= 0.05
    assert abs(y2 - (TOP + 2.32 / 4.32 * height)) <= 0.05


def test_values_can_be_read():
    page = curves_page(make_panels({"": METRICS}), "Title", ["3 damaged rows"])
    titles = [title.text for title in drawings(page)[0].iter("title")]
    assert titles == [
        "train/loss, step 0: 4 per supervised token", "train/loss, step 100: 2 per supervised token",
        "val/loss, step 100: 3 per supervised token",
    ]  # fmt: skip
    assert '<p class="warning">3 damaged rows</p>' in page
    cells = re.findall(r'<td class="number">(.*?)</td>', page)
    assert cells == ["4", "2", "2", "4", "3", "3", "3", "3"]


def test_a_page_needs_nothing_else():
    page = curves_page(make_panels({'<a href="http://x">': METRICS, "b": METRICS}), "<script>alert(1)</script>")
    assert not re.search(r"<script|<link|<a |@import|url\((?!#clip)", page)
    assert "src=" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_logarithmic_scale():
    panels = make_panels({"": Metrics({"train/loss": [(step, 10.0 ** -(step / 10)) for step in range(31)]})})
    texts = [text.text for text in drawings(curves_page(panels, "x"))[0].iter("text")]
    assert {"0.001", "0.01", "0.1", "1"} <= set(texts)
