"""Guards: a page that needs the network or a script, or is broken by a name."""

import re

from llava_pl.curves.metrics import Metrics
from llava_pl.curves.page import curves_page
from llava_pl.curves.panels import make_panels

METRICS = Metrics({"train/loss": [(0, 4.0), (100, 2.0)], "val/loss": [(100, 3.0)]})


def test_drawing_and_numbers():
    page = curves_page(make_panels({"": METRICS}), "Title", ["3 damaged rows"])
    assert '<p class="warning">3 damaged rows</p>' in page
    assert re.findall(r'<td class="number">(.*?)</td>', page) == ["4", "2", "2", "4", "3", "3", "3", "3"]
    letters = re.findall(r"<text[^>]*>(.*?)</text>", page)
    assert {"loss", "step", "per supervised token", "train/loss", "val/loss", "100"} <= set(letters)
    assert page == curves_page(make_panels({"": METRICS}), "Title", ["3 damaged rows"])


def test_a_page_needs_nothing_else():
    page = curves_page(make_panels({'<a href="http://x">': METRICS, "b": METRICS}), "<script>alert(1)</script>")
    assert not re.search(r"<script|<link|<a |@import|src=|url\((?!#)", page)
    assert not re.search(r'<[^>]*href="(?!#)', page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
