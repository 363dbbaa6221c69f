"""Guards how a letter is read: a looser or tighter rule moves every score without an error anywhere.

The first table is the one in the docstring of the module: each row is a text on which the two parsers part.
"""

import pytest

from llava_pl.evaluation.parsing import PARSERS, ParsedAnswer, parse_letter, read_letter
from llava_pl.types import InputError

UNPARSED = ParsedAnswer(None, -1)
COLOURS = ("red", "blue", "light blue")
A, B, C = ParsedAnswer("A", 0), ParsedAnswer("B", 1), ParsedAnswer("C", 2)


@pytest.mark.parametrize(
    ("text", "llava", "strict"),
    [
        ("The answer is C", UNPARSED, C),
        ("Ice melts.\nThe answer is C", UNPARSED, C),
        ("The answer is C\nIce melts.", UNPARSED, C),
        ("The answer is Beta.", B, UNPARSED),
        ("The answer is A dog.", A, UNPARSED),
        ("The answer is A or B.", A, UNPARSED),
        ("The answer is A-flat.", A, UNPARSED),
        ("The answer is B.C.", B, UNPARSED),
        ("the answer is C.", UNPARSED, C),
        ("So the Answer is: C.", UNPARSED, C),
        ("The answer is (C).", UNPARSED, C),
        ("The answer is A. The answer is A.", UNPARSED, A),
        ("A. oak. The answer is A. The answer is A.", A, A),
        ("B. blue. The answer is C.", B, UNPARSED),
        (" A", UNPARSED, A),
        ("A\n", UNPARSED, A),
        ("(A)", UNPARSED, A),
        ("(A).", UNPARSED, A),
        ("A)", UNPARSED, A),
        ("A.", UNPARSED, A),
        ("(A) red", UNPARSED, A),
        ("A) red", UNPARSED, A),
        ("D", ParsedAnswer("D", -1), UNPARSED),
        ("D. red", ParsedAnswer("D", -1), UNPARSED),
        ("The answer is F.", ParsedAnswer("F", -1), UNPARSED),
    ],
)
def test_departures(text, llava, strict):
    assert parse_letter(text, COLOURS, parser="llava") == llava
    assert parse_letter(text, COLOURS, parser="strict") == strict


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("A", A),
        ("B. blue", B),
        ("C. ", C),
        ("The answer is C.", C),
        ("Ice melts. The answer is C.\nIt does.", C),
        ("The answer is B, of course", B),
        ("The answer is B because ice melts.", B),
        ("The answer is A. Because. The answer is B.", UNPARSED),
        ("Assistant: B", UNPARSED),
        ("B.blue", UNPARSED),
        ("a", UNPARSED),
        ("F", UNPARSED),
        ("A dog", UNPARSED),
        ("AB", UNPARSED),
        ("", UNPARSED),
    ],
)
def test_agreements(text, parsed):
    assert parse_letter(text, COLOURS, parser="llava") == parsed
    assert parse_letter(text, COLOURS, parser="strict") == parsed


@pytest.mark.parametrize("parser", PARSERS)
def test_every_letter_up_to_the_number_of_choices(parser):
    for num_choices in (2, 3, 4, 5):
        indices = [parse_letter(letter, ("x",) * num_choices, parser=parser).index for letter in "ABCDE"]
        assert indices == [*range(num_choices), *[-1] * (5 - num_choices)]


@pytest.mark.parametrize(
    ("text", "lenient"),
    [
        ("Answer: C", C),
        ("Option C is right", C),
        ("The correct answer would be B, since", B),
        ("the correct answer is c.", C),
        ("B. blue. The answer is C.", C),
        ("It must be (b), I think", B),
        ("c", C),
        ("(c)", C),
        ("Red!", A),
        ("I would say red", A),
        ("It is light blue.", C),
        ("Option A is wrong, option B is right", B),
        ("Option B is right, option A is incorrect", B),
        ("It is not option A", UNPARSED),
        ("Not red.", UNPARSED),
        ("I don't think it is red", UNPARSED),
        ("The answer isn't (A), it is (B)", B),
        ("red or blue", UNPARSED),
        ("The answer is A or B.", UNPARSED),
        ("the answer is a matter of taste", UNPARSED),
        ("(a) or (b)", UNPARSED),
        ("The answer is D.", UNPARSED),
        ("reddish", UNPARSED),
        ("", UNPARSED),
    ],
)
def test_lenient(text, lenient):
    assert parse_letter(text, COLOURS, parser="lenient") == lenient


@pytest.mark.parametrize("text", ["A", "(B)", "C. ", "The answer is C", "A. oak. The answer is A."])
def test_lenient_reads_what_strict_reads(text):
    strict = parse_letter(text, COLOURS, parser="strict")
    assert strict.index >= 0
    assert parse_letter(text, COLOURS, parser="lenient") == strict


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("A", A),
        ("B.", B),
        ("C. The answer is A.", C),
        ("D.", ParsedAnswer("D", -1)),
        ("T.hello", ParsedAnswer("T", -1)),
        ("The answer is A.", UNPARSED),
        (" A\n", A),
        ("a", A),
        ("b.", UNPARSED),
        ("", UNPARSED),
    ],
)
def test_lmms_eval_looks_at_the_start_alone(text, parsed):
    """Its rule of August 2026 (75571cf)."""
    assert parse_letter(text, COLOURS, parser="lmms-eval") == parsed


def test_choices_that_are_alike_or_empty_are_not_told_apart():
    assert parse_letter("red", ("red", "Red"), parser="lenient") == UNPARSED
    assert parse_letter("red", ("", "red"), parser="lenient") == B


def test_unknown_parser():
    with pytest.raises(InputError, match="parser: expected one of llava, strict, lenient, lmms-eval, found 'mine'"):
        parse_letter("A", COLOURS, parser="mine")


@pytest.mark.parametrize(
    ("text", "exact", "strict"), [("B", "B", "B"), ("B.", None, "B"), ("D", None, None), ("", None, None)]
)
def test_letters_of_tests_that_ask_for_a_letter(text, exact, strict):
    assert read_letter(text, COLOURS, parser="exact") == exact
    assert read_letter(text, COLOURS, parser="strict") == strict
