"""What is wrong with what a teacher wrote.

In: its questions and answers, and the `Description` that it was given. Out: reasons why they must not be learned from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from llava_pl.building.claims import find_wrong_claims
from llava_pl.building.descriptions import Description
from llava_pl.building.objects import Objects
from llava_pl.building.prompts import Kind
from llava_pl.building.turns import Fault, Pairs, plain_quotes
from llava_pl.types import IMAGE_SLOT

REASONS = (
    "cut_off",
    "duplicate",
    "language",
    "length",
    "number",
    "object",
    "questions",
    "refusal",
    "repeated",
    "slot",
    "source",
    "stopped",
)
"""Of faults of texts that have turns; "form" and "empty" are those of texts that have none."""

MIN_QUESTIONS, MAX_QUESTIONS = 2, 12
MIN_WORDS: dict[Kind, int] = {"conversation": 1, "detailed": 30, "reasoning": 30}
MAX_WORDS: dict[Kind, int] = {"conversation": 400, "detailed": 500, "reasoning": 500}
"""Of one answer; prompts say so too."""

MAX_OTHER_LETTERS = 0.1
"""Of all letters those that are not Latin; a word of another script on a sign is fine."""

MIN_DISTINCT = 0.7
"""Share of groups of three words in an answer that are different ones; prose has more than nine in ten."""

MIN_GROUPS = 12
"""From how many on they are counted."""

_THE_TEXT = r"(?:descriptions?|sentences?|information|texts?|data|details|annotations?|list|context)"
_SOURCE = (
    r"\bcaptions?\b|\bannotations?\b|\bmetadata\b|\bbounding[ -]box(?:es)?\b",
    r"\bcoordinates?\b(?<!to coordinate)(?! (?:their|his|her|its|with|the)\b)",  # who coordinates is fine
    rf"\b(?:provided|given|available|supplied) {_THE_TEXT}\b|\b{_THE_TEXT} (?:provided|given|available|supplied)\b",
    r"\bwhat (?:was|is) provided\b",
    r"\b(?:first|second|third|fourth|fifth|last) (?:sentence|description)\b",
    r"\b(?:image|picture|photo|scene|textual) descriptions?\b",
    r"\bthe (?:descriptions?|sentences?) (?:says?|mentions?|states?|tells?|indicates?|notes?|does|do)\b",
    rf"\b(?:based on|according to|described in|mentioned in|stated in|as per) the {_THE_TEXT}\b",
    r"(?:\bnot|n't) (?:specified|mentioned|stated|provided)\b|\bunclear from (?:what|the)\b",
    rf"\b{_THE_TEXT} (?:that )?i (?:was|am|were|have been) given\b|\bi (?:was|am|have been) (?:given|told|provided)\b",
    r"[\[(]\s*[01]?\.\d+\s*[,\])]|(?<![\d$.])0\.\d{2,3}\b",  # places of boxes
)
_REFUSAL = (
    r"\bas an? (?:ai|(?:large )?language model)\b",
    r"(?:^|[.!?]\s+)(?:unfortunately,? )?i(?:'m| am) (?:sorry|unable|not able)\b",  # not in somebody's mouth
    r"\bi (?:can(?:not|'t)|could not|couldn't|am unable to|do not|don't) (?:actually |really )?"
    r"(?:see (?:the|this|any) (?:image|picture|photo)|view|assist|provide|determine|identify|access|help|confirm)\b",
    r"\bi (?:cannot|can't) (?:see|tell|say|know)\b(?! how| why)",
    r"\bwithout seeing the (?:picture|image|photo)\b|\b(?:cannot|can't) be determined\b",
    r"\bi (?:do not|don't) have (?:access|information|enough|any information)\b",
)
_WORDING = (
    ("source", re.compile("|".join(_SOURCE), re.IGNORECASE)),
    ("refusal", re.compile("|".join(_REFUSAL), re.IGNORECASE | re.MULTILINE)),
    ("slot", re.compile(re.escape(IMAGE_SLOT), re.IGNORECASE)),
)


def find_faults(kind: Kind, pairs: Pairs, description: Description, objects: Objects) -> Iterator[Fault]:
    """Yield what is wrong with questions and answers; several reasons may be given, and one of them twice.

    Args:
        kind: What the teacher was asked for.
        pairs: What it wrote.
        description: What it was given.
        objects: Which words name which category.
    """
    pairs = [(plain_quotes(question), plain_quotes(answer)) for question, answer in pairs]
    if kind == "reasoning" and len(pairs) != 1:
        yield Fault("questions", f"expected 1 question, found {len(pairs)}")
    if kind == "conversation" and not MIN_QUESTIONS <= len(pairs) <= MAX_QUESTIONS:
        yield Fault("questions", f"expected {MIN_QUESTIONS} to {MAX_QUESTIONS} questions, found {len(pairs)}")
    for question, number in Counter(" ".join(_words(question)) for question, _ in pairs).items():
        if number > 1:
            yield Fault("repeated", f"{number} times {question!r}")
    for _, answer in pairs:
        if not MIN_WORDS[kind] <= (number := len(answer.split())) <= MAX_WORDS[kind]:
            yield Fault("length", f"expected {MIN_WORDS[kind]} to {MAX_WORDS[kind]} words, found {number}")
        words = _words(answer)
        groups = Counter(zip(words, words[1:], words[2:], strict=False))
        if groups.total() >= MIN_GROUPS and len(groups) < MIN_DISTINCT * groups.total():
            group, number = groups.most_common(1)[0]
            yield Fault("repeated", f"{number} times {' '.join(group)!r}")
    # Of a detailed description the question is ours.
    parts = [answer for _, answer in pairs] if kind == "detailed" else [part for pair in pairs for part in pair]
    yield from _find_wording("\n".join(parts))
    yield from find_wrong_claims(kind, pairs, description, objects)


def _find_wording(text: str) -> Iterator[Fault]:
    letters = [letter for letter in text if letter.isalpha()]
    others = [letter for letter in letters if ord(letter) > 0x24F]
    if len(others) > MAX_OTHER_LETTERS * len(letters):
        yield Fault("language", f"expected the Latin alphabet, found {''.join(others)[:20]!r}")
    for reason, pattern in _WORDING:
        if match := pattern.search(text):
            yield Fault(reason, match.group().strip(" .!?\n"))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())
