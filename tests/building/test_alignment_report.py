"""Guards the page of alignment pairs: a curve of something else, a caption that is taken for HTML."""

import numpy as np
import pytest
from PIL import Image

from llava_pl.building.alignment import Choice
from llava_pl.building.alignment_report import alignment_page, draw_phrases
from llava_pl.building.captions import Caption

BEFORE, AFTER = np.array([5, 1, 3, 200]), np.array([5, 0, 3, 100])
NONE = np.ones(1, dtype=bool), {}, np.zeros((0, 2), dtype=np.int64)
CHOICE = Choice(*NONE, ["dog", "cat", "<b>", "man"], BEFORE, AFTER)


def test_curves_go_from_the_most_frequent_phrase_down():
    (axis,) = draw_phrases(CHOICE).axes
    before, after = axis.lines
    assert (before.get_xdata().tolist(), before.get_ydata().tolist()) == ([1, 2, 3, 4], [200, 5, 3, 1])
    assert (after.get_xdata().tolist(), after.get_ydata().tolist()) == ([1, 2, 3], [100, 5, 3])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "before: 4 phrases in 209 places",
        "after: 3 phrases in 108 places",
    ]


@pytest.mark.parametrize("choice", [CHOICE, Choice(*NONE, [], BEFORE[:0], AFTER[:0])])
def test_page(choice, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    caption = Caption("line 1", "a.png", "a <b>bold</b> dog", tmp_path / "a.png")
    page = alignment_page({"captions": 1234}, {"seed": "<i>"}, choice, [caption])
    assert '<td>captions</td><td class="number">1,234</td>' in page
    assert "a &lt;b&gt;bold&lt;/b&gt; dog" in page
    assert '<td>seed</td><td class="number">&lt;i&gt;</td>' in page
    assert "<b>" not in page
    assert page.count("<img ") == 1
    rows = [page.find(f"<td>{name}</td>") for name in ("man", "dog", "&lt;b&gt;", "cat")]
    assert rows == sorted(rows) if choice.phrases else set(rows) == {-1}


def test_pictures_of_phones_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    page = alignment_page({}, {}, CHOICE, [Caption("line 1", "a.jpg", "a dog", tmp_path / "a.jpg")])
    assert 'width="20" height="40"' in page
