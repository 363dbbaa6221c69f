"""Guards against a value that a border of the window cuts in two, and against a fault placed on the wrong line."""

from pathlib import Path

import pytest

from llava_pl.data.json_window import JsonWindow
from llava_pl.types import InputError


def window(*chunks: str) -> JsonWindow:
    return JsonWindow(Path("x.json"), iter(chunks))


def values(text: JsonWindow) -> list[object]:
    found = []
    while text.peek():
        found.append(text.read_value())
    return found


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (("12", "3 4"), [123, 4]),
        (("-", "1", ".", "5", "e", "+", "2"), [-150.0]),
        (("7 1.", "5 ", "1e", "-1 1e+", "1"), [7, 1.5, 0.1, 10.0]),
        (("fal", "se nul", "l"), [False, None]),
        (("-Infin", "ity"), [float("-inf")]),
        (('"a\\', 'n"'), ["a\n"]),
        (('"\\u00', 'e9"'), ["\u00e9"]),
        (('"\\ud83d', '\\ude00"'), ["\U0001f600"]),
        (('"\\ud83d\\u', 'de00"'), ["\U0001f600"]),
        (('{"a"', ": [1,", " 2]", "} []"), [{"a": [1, 2]}, []]),
        (("\n ", "\t", "\r\n"), []),
    ],
)
def test_values_across_borders(chunks, expected):
    assert values(window(*chunks)) == expected
    assert values(window(*"".join(chunks))) == expected
    assert values(window("".join(chunks))) == expected


def test_what_was_read_is_let_go():
    text = window("[1]" * 1000, *["[2]" * 1000] * 9)
    assert values(text) == [[1]] * 1000 + [[2]] * 9000
    assert len(text._text) < 2 * 3000 + 3


def test_fault_is_placed_in_the_whole_text():
    text = window("[1]\n[2]\n", "[3]\n", " [4 5]")
    assert [text.read_value() for _ in range(3)] == [[1], [2], [3]]
    with pytest.raises(InputError) as caught:
        text.read_value()
    assert str(caught.value) == "x.json: invalid JSON at line 4, column 5: Expecting ',' delimiter"
    assert str(text.error("seen")) == "x.json: invalid JSON at line 4, column 2: seen"


def test_fault_far_from_the_border_needs_no_more_text():
    def chunks():
        yield "[1 2" + " " * 100
        pytest.fail("read on after a certain fault")

    with pytest.raises(InputError, match=r"line 1, column 4: Expecting ',' delimiter"):
        JsonWindow(Path("x.json"), chunks()).read_value()
