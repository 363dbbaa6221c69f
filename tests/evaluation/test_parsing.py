"""Guards how a letter is read: a looser or tighter rule moves every score without an error anywhere.

The first table is the one in the docstring of the module: each row is a text on which the two parsers part.
"""

import pytest

from llava_pl.evaluation.parsing import ParsedAnswer, parse_letter

UNPARSED = ParsedAnswer(None, -1)
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
    assert parse_letter(text, 3, parser="llava") == llava
    assert parse_letter(text, 3, parser="strict") == strict


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
    assert parse_letter(text, 3, parser="llava") == parsed
    assert parse_letter(text, 3, parser="strict") == parsed


@pytest.mark.parametrize("parser", ["llava", "strict"])
def test_every_letter_up_to_the_number_of_choices(parser):
    for num_choices in (2, 3, 4, 5):
        indices = [parse_letter(letter, num_choices, parser=parser).index for letter in "ABCDE"]
        assert indices == [*range(num_choices), *[-1] * (5 - num_choices)]
