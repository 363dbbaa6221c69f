"""Guards: a page that opens pictures which training refuses, or runs what a record says."""

from html.parser import HTMLParser

from PIL import Image

from llava_pl.app.data.check import CheckReport
from llava_pl.app.data.check_html import NUM_EXAMPLES, report_page
from llava_pl.types import BadRecord, RecordError

BAD = BadRecord(3, "<7>", "image_slots", "a <script>", ("red.png", "nowhere.png"), "<x>")


def load(name):
    if name != "red.png":
        raise RecordError(f"cannot open picture {name}", "picture_missing")
    return Image.new("RGB", (400, 100), (255, 0, 0))


def test_examples_show_their_pictures_where_they_can_be_read():
    page = report_page(CheckReport({"<x>": 9}, [BAD], num_cut_records=2), load)
    assert '<p class="warning">1 of 9 records are bad</p>' in page
    assert "<li>records longer than max_length, which lose the end of their text: 2</li>" in page
    assert "<h2>image_slots: 1 records</h2>" in page
    assert '<td>&lt;x&gt;</td><td class="number">3</td><td>&lt;7&gt;</td><td class="text">a &lt;script&gt;</td>' in page
    assert 'width="96" height="24" alt="red.png"><p>nowhere.png: cannot be shown</p>' in page


def test_only_the_first_examples_and_pictures_are_shown():
    entry = BadRecord(0, "a", "too_long", "m", ("red.png",) * 40)
    page = report_page(CheckReport({"<x>": 50}, [entry] * 30), load)
    assert f"<h2>too_long: 30 records, the first {NUM_EXAMPLES} of them</h2>" in page
    assert page.count("<tr><td") == NUM_EXAMPLES
    assert page.count("<img ") == 4 * NUM_EXAMPLES
    assert page.count("<p>and 36 more</p>") == NUM_EXAMPLES


def test_good_data():
    page = report_page(CheckReport({"<x>": 9}), load)
    assert '<p class="good">all 9 records are good</p>' in page
    assert "<h2>" not in page


def test_a_picture_outside_the_folder_is_not_shown(zoo):
    from llava_pl.app.load_data import load_data

    encoder = load_data(["--config", str(zoo / "config.yaml")]).make_encoder()
    entry = BadRecord(0, "a", "path_outside", "m", ("../outside.png", "link.png", "good.png"))
    page = report_page(CheckReport({"<x>": 1}, [entry]), encoder.load_picture)
    assert page.count("<img ") == 1
    assert "<p>../outside.png: cannot be shown</p><p>link.png: cannot be shown</p><img " in page


class Balance(HTMLParser):
    """Checks that each tag is closed where it should be."""

    open: tuple[str, ...] = ()

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link")
        self.open += () if tag in ("meta", "img") else (tag,)

    def handle_endtag(self, tag):
        assert self.open[-1] == tag
        self.open = self.open[:-1]


def test_page_is_well_formed():
    parser = Balance()
    parser.feed(report_page(CheckReport({"<x>": 9}, [BAD] * 30, num_cut_records=2), load))
    assert parser.open == ()
