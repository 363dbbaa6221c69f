"""Guards soft accuracy: answers that people wrote differently, and how many of them must agree."""

from itertools import product

import pytest

from llava_pl.evaluation.vqa_answers import agree_with_people, agreement, tidy_answer
from llava_pl.types import Question


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("The Dog", "dog"),
        ("two dogs.", "2 dogs"),
        ("None", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("10:30", "10:30"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("black- white/grey", "black white grey"),
        ("what?!", "what"),
        ("Joe's bar", "joe 's bar"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("a", ""),
        ("two\nlines\tand more", "2 lines and more"),
        ("", ""),
    ],
)
def test_tidied(text, tidied):
    assert tidy_answer(text) == tidied


def test_a_mark_at_the_edge_of_any_word_vanishes_everywhere():
    """The server's quirk: " -" anywhere takes out all hyphens instead of parting words at them."""
    assert tidy_answer("t-shirt") == "t shirt"
    assert tidy_answer("t-shirt -") == "tshirt"


def test_only_so_many_full_stops_are_taken_out():
    assert tidy_answer("a." * 40) == "a" * 32 + "a." * 8


@pytest.mark.parametrize("number", range(11))
def test_agreement_is_the_mean_over_people_left_out(number):
    """By enumeration, as the formula is defined."""
    given = ["x"] * number + ["y"] * (10 - number)
    credits = []
    for left_out, _ in enumerate(given):
        others = [text for place, text in enumerate(given) if place != left_out]
        credits.append(min(1.0, others.count("x") / 3))
    assert agreement("x", given) == pytest.approx(sum(credits) / 10, abs=1e-12)


def test_other_numbers_of_people():
    assert [agreement("x", ["x"] * n) for n in (1, 2, 3, 4)] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


def test_people_are_tidied_too():
    people = tuple(f"{article}{word}{mark}" for article, word, mark in product(("", "The "), ("Two",), ("", "!")))
    assert agree_with_people("2", Question("1", "?", references=people)) == 1.0
    assert agree_with_people("2", Question("1", "?")) == 0.0
