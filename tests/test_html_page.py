"""Guards: a page that needs a network or a script, that some cannot read, or that runs what a record says."""

import base64
import io
from html import unescape

from PIL import Image

from llava_pl.html_page import frame, page, picture_tag, show


def test_page_is_complete_and_names_its_language():
    text = page("A <b>", "<p>x</p>", ".a { color: red; }")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">\n')
    assert "<title>A &lt;b&gt;</title>" in text
    assert "<h1>A &lt;b&gt;</h1>\n<p>x</p>" in text
    assert ".a { color: red; }</style>" in text
    assert "<script" not in text
    assert "http" not in text


def test_frame_holds_the_page_and_its_rules_stay_inside():
    html = page('A "b"', "<p>x &amp; y</p>")
    tag = frame(html, 300)
    inside = tag.removeprefix('<iframe srcdoc="').partition('"')[0]
    head, _, body = unescape(inside).partition("<style>body { font-size")
    assert head + body.partition("</style>\n")[2] == html
    assert tag.count("<") == 2
    assert "height: 300px" in tag


def test_text_is_escaped_and_control_characters_are_written_out():
    assert show('<script>"\0\n') == "&lt;script&gt;&quot;\\x00\u21b5"


def test_picture_is_inside_its_tag():
    picture = Image.effect_noise((5, 3), 60)
    tag = picture_tag(picture, 'a "dog"')
    assert tag.endswith('" width="5" height="3" alt="a &quot;dog&quot;">')
    data = tag.removeprefix('<img src="data:image/png;base64,').partition('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == picture.tobytes()


def test_a_picture_may_take_less_room():
    tag = picture_tag(Image.new("RGB", (5, 3), "red"), "a dog", "jpeg")
    data = tag.removeprefix('<img src="data:image/jpeg;base64,').partition('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == "JPEG"
