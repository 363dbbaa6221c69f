"""Guards: a page that shows another mask than the terminal, or says it by colour alone."""

from html.parser import HTMLParser

import pytest
from PIL import Image

from llava_pl.app.data.lens import View
from llava_pl.app.data.lens_html import COLOURS, view_page
from llava_pl.app.data.stretches import Stretch, Token
from llava_pl.types import ImageGrid

VIEW = View(
    source="<talk>",
    index=4,
    id="<7>",
    stretches=(
        Stretch("read", (Token(0, 1, "<s>", "read", is_special=True), Token(1, 40, "a", "read"))),
        Stretch("image", (Token(2, -200, "", "image"), Token(3, -200, "", "image"))),
        Stretch("learn", (Token(4, 41, "b", "learn"), Token(5, 2, "</s>", "learn", is_special=True))),
    ),
    num_supervised=2,
    pictures=(Image.new("RGB", (2, 2), (255, 0, 0)),),
    num_cut=3,
)

ROWS = """\
<tr><td class="number">0-1</td><td><span class="read">read</span></td><td class="text">\
<span class="read special" title="position 0, id 1">&lt;s&gt;</span>\
<span class="read odd" title="position 1, id 40">a</span></td></tr>
<tr><td class="number">2-3</td><td><span class="image">image</span></td><td class="text">\
<span class="image">[image: 2 tokens]</span></td></tr>
<tr><td class="number">4-5</td><td><span class="learn">learn</span></td><td class="text">\
<span class="learn" title="position 4, id 41">b</span>\
<span class="learn odd special" title="position 5, id 2">&lt;/s&gt;</span></td></tr>
<tr><td class="number"></td><td><span class="cut">cut</span></td><td class="text">\
<span class="cut">[cut: 3 tokens]</span></td></tr>
"""


class Tags(HTMLParser):
    """Collects the tags of a page and checks that each one is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def tags():
    parser = Tags()
    parser.feed(view_page(VIEW))
    assert parser.open == []
    return parser.found


def test_rows():
    page = view_page(VIEW)
    assert f"<tbody>\n{ROWS}</tbody>" in page
    assert "<h1>Record 4 of &lt;talk&gt;, id &#x27;&lt;7&gt;&#x27;, as training sees it</h1>" in page
    assert "<p>6 tokens, 2 supervised (33.3 %), 1 image, 3 cut off</p>" in page


def test_page_can_be_read_by_everybody(tags):
    assert ("html", {"lang": "en"}) in tags
    assert [attributes["alt"] for tag, attributes in tags if tag == "img"] == [
        "picture 1 as the vision encoder sees it"
    ]
    assert sum(tag == "th" and attributes["scope"] == "col" for tag, attributes in tags) == 3
    legend = [attributes["class"] for tag, attributes in tags if "key" in attributes.get("class", "")]
    assert legend == ["key read", "key learn", "key image", "key wrong", "key cut"]


def test_tiles_are_named():
    tile = Image.new("RGB", (2, 2))
    view = View(
        "a", 0, "a", VIEW.stretches, 2, pictures=(tile,) * 5, grids=(ImageGrid(1, 1, 1, 1), ImageGrid(1, 2, 1, 2))
    )
    page = view_page(view)
    for name in ("picture 1, tile 1 of 2", "picture 1, tile 2 of 2", "picture 2, tile 3 of 3"):
        assert f"<figcaption>{name}, 2 x 2</figcaption>" in page
        assert f'alt="{name} as the vision encoder sees it"' in page
    assert "<p>6 tokens, 2 supervised (33.3 %), 2 images, 5 tiles</p>" in page


def test_a_packed_row_has_its_boundaries():
    token = Token(0, 40, "a", "learn")
    view = View("a", 0, "x", (Stretch("learn", (token,)), Stretch("learn", (token,), sample=1)), 2, row=("<x>", "y"))
    first, second = (
        f'<tr><th colspan="3" scope="rowgroup">sample {number} of 2, id &#x27;{name}&#x27;: sees nothing of the others'
        for number, name in ((1, "&lt;x&gt;"), (2, "y"))
    )
    found = view_page(view)
    assert 0 < found.index(first) < found.index('title="position 0, id 40"') < found.index(second)
    assert found.count('scope="rowgroup"') == 2


def test_page_needs_nothing_else(tags):
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    assert all(attributes["src"].startswith("data:image/png;base64,") for tag, attributes in tags if tag == "img")
    assert not any(name.startswith("on") or name == "href" for _, attributes in tags for name in attributes)


def test_warnings_and_no_pictures():
    page = view_page(View("a", 0, "a", VIEW.stretches[:1], 0))
    assert '<p class="warning">nothing is supervised: this sample teaches nothing</p>' in page
    assert "<h2>" not in page


def test_a_record_that_the_quarantine_leaves_out_says_so():
    page = view_page(View("a", 0, "a", VIEW.stretches, 2, quarantined="picture_broken"))
    assert '<p class="warning">left out by data.quarantine: picture_broken</p>' in page


def luminance(colour):
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [colour for shades in COLOURS.values() for colour in shades])
def test_text_can_be_read_on_every_colour(colour):
    # WCAG asks for 7 : 1 at its highest level; the page's text is #111111.
    assert (luminance(colour) + 0.05) / (luminance("#111111") + 0.05) >= 7
