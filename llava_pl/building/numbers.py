"""Numbers in sentences, in figures and in words.

In: a sentence. Out: how many it speaks of.
"""

from __future__ import annotations

import re

_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")

EXACT: dict[str, int] = {"none": 0, "zero": 0} | {word: value for value, word in enumerate((*_UNITS, *_TEENS), 1)}
for _value, _ten in enumerate(_TENS, 2):
    EXACT |= {_ten: 10 * _value} | {f"{_ten}-{unit}": 10 * _value + number for number, unit in enumerate(_UNITS, 1)}
EXACT |= {"half a dozen": 6, "a dozen": 12, "a pair of": 2, "two dozen": 24}
"""What words say exactly."""

AT_LEAST = dict.fromkeys(("a few", "many", "multiple", "numerous", "several", "various", "a couple of"), 2)
"""What words say without a number: no two people agree from how many on there are many."""

# No figure of a time, a price, a share or a place, and no name of a line: "number 7".
_START = r"(?<![\w.:,/#$-])(?<!\bnumber )(?<!\broute )(?<!\bline )(?<!\bno\. )"
_FIGURE = r"\d{1,3}(?![\w.:,/%-]*[\d%])"


def _any_of(words: dict[str, int]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


NUMBER = re.compile(rf"{_START}({_any_of(EXACT)}|{_FIGURE})\b(?!-)", re.IGNORECASE)
"""Any number."""

# "Two large dogs" are two; "two with dogs", "two of the dogs" and "10 year old dogs" say nothing of how many.
_NO_ADJECTIVES = (
    "of|the|and|or|an?|in|on|at|by|with|to|from|for|near|is|are|has|have|who|that|his|her|their|its|years?|"
    "holding|wearing|carrying|riding|using|walking|watching|feet|foot|inch|meters?|miles?|story|am|pm|o'clock"
)
LEAST_BEFORE = re.compile(
    rf"{_START}({_any_of(EXACT | AT_LEAST)}|{_FIGURE})(?:\s+(?!(?:{_NO_ADJECTIVES})\b)[a-z-]+){{0,2}}\s+$",
    re.IGNORECASE,
)
"""A number, and words that may stand between it and what it counts."""


def as_number(word: str) -> int:
    """Return what a word or figure says, at least.

    >>> [as_number(word) for word in ("Twenty-two", "7", "many")]
    [22, 7, 2]
    """
    word = word.lower()
    return int(word) if word.isdigit() else (EXACT | AT_LEAST)[word]
