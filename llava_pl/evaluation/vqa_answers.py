"""Short answers in words: how VQA's evaluation writes them alike, and what they are worth beside ten people's.

In: an answer, and those of people. Out: the answer as it is compared, and a credit from 0 to 1. Equal to the evaluation
server's processor, its quirks included (Antol et al. 2015; the accuracy of TextVQA is the same measure).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from llava_pl.types import Question

NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
NUM_AGREEING = 3
"""People who must have given an answer for it to count in full."""

_FULL_STOP = re.compile(r"\.(?!\d)")
_MAX_FULL_STOPS = int(re.UNICODE)
"""The server hands a flag over in the place of this number: only so many full stops of an answer are taken out."""

# Words that get back an apostrophe that was left out; two that were left out they do not.
_WITH_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_RESTORED = {
    word[:place] + word[place + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the one that goes the other way there


def tidy_answer(text: str) -> str:
    """Return an answer as it is compared: small letters, digits for numbers, no articles and no punctuation.

    >>> tidy_answer("The two dogs!"), tidy_answer("3.5 miles."), tidy_answer("dont know")
    ('2 dogs', '3.5 miles', "don't know")
    """
    given = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    given = given.replace("\n", " ").replace("\t", " ").strip()
    tidied = given
    for mark in PUNCTUATION:
        is_at_edge = f"{mark} " in given or f" {mark}" in given  # of a word, anywhere in the text
        tidied = tidied.replace(mark, "" if is_at_edge else " ")
    tidied = _FULL_STOP.sub("", tidied, count=_MAX_FULL_STOPS)
    words = [NUMBERS.get(word, word) for word in tidied.split()]
    return " ".join(_RESTORED.get(word, word) for word in words if word not in ARTICLES)


def read_answer(text: str, question: Question) -> str:
    """Return what a text says, for `judge`."""
    del question
    return tidy_answer(text)


def agree_with_people(reading: str, question: Question) -> float:
    """Return the credit of what a text says, for `judge`; nothing where it is not known what people answered."""
    return agreement(reading, [tidy_answer(text) for text in question.references]) if question.references else 0.0


def agreement(answer: str, given: Sequence[str]) -> float:
    """Return the credit of a tidied answer: the mean over people left out of min(1, others who say it / 3).

    Args:
        answer: Tidied.
        given: What people answered, tidied; at least one.

    >>> round(agreement("2", ["2"] * 3 + ["3"] * 7), 6), agreement("4", ["2"] * 10)
    (0.9, 0.0)
    """
    number = Counter(given)[answer]
    left_in = (len(given) - number) * min(1.0, number / NUM_AGREEING)
    left_out = number * min(1.0, (number - 1) / NUM_AGREEING)
    return (left_in + left_out) / len(given)
