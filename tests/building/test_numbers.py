"""Guards numbers in sentences: one that is missed, one of something else."""

import pytest

from llava_pl.building.numbers import LEAST_BEFORE, NUMBER, as_number


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Twenty-two dogs, seventeen cats and 130 birds", [22, 17, 130]),
        ("half a dozen dogs, a dozen cats, two dozen birds, a pair of skis", [6, 12, 24, 2]),
        ("None of them, zero", [0, 0]),
        ("bus number 7, route 66, 10:30, $5, 0.45, 3.5, 7%, 2nd, #4, 5-year-old, two-story, 1,000", []),
        ("someone phones", []),
    ],
)
def test_numbers(text, numbers):
    assert [as_number(match[1]) for match in NUMBER.finditer(text)] == numbers


@pytest.mark.parametrize(
    ("before", "number"),
    [
        ("two ", "two"),
        ("There are five big red ", "five"),
        ("several ", "several"),
        ("a couple of ", "a couple of"),
        ("one of the ", None),
        ("a 10 year old ", None),
        ("two with ", None),
        ("the number 7 ", None),
        ("two plates and some ", None),
        ("two", None),
    ],
)
def test_what_a_number_counts(before, number):
    match = LEAST_BEFORE.search(before)
    assert (match and match[1]) == number
