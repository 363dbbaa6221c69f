"""Guards control characters of a file or a model that reach a terminal."""

import pytest

from llava_pl.visible import visible


@pytest.mark.parametrize(
    ("text", "expected"), [("a b", "a b"), ("\n", "\u21b5"), ("\0", "\\x00"), ("\ud83d", "\\ud83d")]
)
def test_control_characters_are_written_out(text, expected):
    assert visible(text) == expected
