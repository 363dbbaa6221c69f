"""Guards files of wordings: a comment that is asked, a draw that another record changes."""

import pytest

from llava_pl.building.wordings import BRIEF, DETAILED, ask_about_picture, read_wordings
from llava_pl.types import InputError


@pytest.mark.parametrize(("path", "number"), [(BRIEF, 11), (DETAILED, 12)])
def test_ours(path, number):
    wordings = read_wordings(path)
    assert len(wordings) == len(set(wordings)) == number
    assert all(line[0].isupper() and line[-1] in ".?" for line in wordings)


def test_a_file(tmp_path):
    (tmp_path / "w.txt").write_text("\ufeff# how\n\n  What? \nWhy?\n", encoding="utf-8")
    assert read_wordings(tmp_path / "w.txt") == ["What?", "Why?"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# none\n\n", "expected one wording a line, found none"),
        (b"What is in <image>?", r"expected words alone, found 'What is in <image>\?'"),
        (b"\xff", "cannot be read"),
        (None, r"cannot be read \(No such file"),
    ],
)
def test_what_is_none(content, message, tmp_path):
    if content is not None:
        (tmp_path / "w.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_wordings(tmp_path / "w.txt")


def test_draws_are_of_the_record_alone_and_of_both_orders():
    wordings = ["A?", "B?"]
    asked = {name: ask_about_picture(wordings, 0, name) for name in map(str, range(1000))}
    assert asked["7"] == ask_about_picture(wordings, 0, "7")
    assert set(asked.values()) == {"<image>\nA?", "<image>\nB?", "A?\n<image>", "B?\n<image>"}
    assert asked != {name: ask_about_picture(wordings, 1, name) for name in asked}
    # Half of 1,000, within four deviations.
    assert 436 < sum(text.startswith("<image>") for text in asked.values()) < 564
