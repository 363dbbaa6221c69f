"""What a teacher wrote to turns of a conversation, and what is wrong with it.

In: its text, and the `Description` that it was given. Out: turns, or reasons why it must not be learned from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from llava_pl.building.descriptions import Description
from llava_pl.building.objects import Objects
from llava_pl.building.prompts import Kind
from llava_pl.types import IMAGE_SLOT

Pairs = list[tuple[str, str]]
"""Questions with their answers."""

MIN_QUESTIONS, MAX_QUESTIONS = 2, 12
MIN_WORDS: dict[Kind, int] = {"conversation": 1, "detailed": 30, "reasoning": 30}
MAX_WORDS: dict[Kind, int] = {"conversation": 150, "detailed": 500, "reasoning": 500}
"""Of one answer."""

_MARK = re.compile(r"^[ \t*#>-]*(question|answer)(?:[ \t]*\d+)?[ \t*]*:[ \t*]*", re.IGNORECASE | re.MULTILINE)

SOURCE_WORDS = re.compile(
    r"\b(?:captions?|bounding[ -]box(?:es)?|coordinates?|(?:provided|given) (?:description|sentence|information|text)s?"
    r"|the (?:description|sentence)s?|based on the (?:description|sentence|information|text)s?)\b|\[\s*[01]?\.\d+",
    re.IGNORECASE,
)
REFUSALS = re.compile(
    r"\b(?:as an? (?:ai|language model)|i(?:'m| am) (?:sorry|unable)|i can(?:not|'t) (?:see|view|assist|provide))\b",
    re.IGNORECASE,
)
REASONS = ("cut_off", "duplicate", "length", "number", "object", "questions", "refusal", "repeated", "slot", "source")
"""Of faults of texts that have turns; "form" and "empty" are those of texts that have none."""

_COUNTS_ALL = re.compile(r"\bthere (?:are|is)\b[^,;]*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a text must not be learned from.

    Args:
        reason: One short word.
        found: What shows it.
    """

    reason: str
    found: str


def parse_written(kind: Kind, text: str, question: str) -> Pairs | Fault:
    """Return the questions and answers in a text of the teacher's.

    Args:
        kind: What it was asked for.
        text: What it wrote.
        question: What a detailed description answers; the teacher writes none of that kind.
    """
    if not text.strip():
        return Fault("empty", "nothing was written")
    if kind == "detailed":
        mark = _MARK.search(text)
        return (
            Fault("form", f"expected a description alone, found {mark.group().strip()!r}")
            if mark
            else [(question, text.strip())]
        )
    before, *rest = _MARK.split(text)
    if before.strip():
        return Fault("form", f"expected 'Question:' first, found {before.strip()[:60]!r}")
    roles, texts = [role.lower() for role in rest[::2]], [part.strip() for part in rest[1::2]]
    if roles != ["question", "answer"] * (len(roles) // 2) or not roles:
        return Fault("form", f"expected questions and answers in turns, found {', '.join(roles) or 'none'}")
    if not all(texts):
        return Fault("form", f"expected words behind each mark, found none behind {roles[texts.index('')]!r}")
    return list(zip(texts[::2], texts[1::2], strict=True))


def find_faults(kind: Kind, pairs: Pairs, description: Description, objects: Objects) -> Iterator[Fault]:
    """Yield what is wrong with questions and answers; several reasons may be given, and one of them twice.

    Args:
        kind: What the teacher was asked for.
        pairs: What it wrote.
        description: What it was given.
        objects: Which words name which category.
    """
    text = "\n".join(part for pair in pairs for part in pair)
    if kind == "reasoning" and len(pairs) != 1:
        yield Fault("questions", f"expected 1 question, found {len(pairs)}")
    if kind == "conversation" and not MIN_QUESTIONS <= len(pairs) <= MAX_QUESTIONS:
        yield Fault("questions", f"expected {MIN_QUESTIONS} to {MAX_QUESTIONS} questions, found {len(pairs)}")
    for question, number in Counter(question.lower() for question, _ in pairs).items():
        if number > 1:
            yield Fault("repeated", f"{number} times {question!r}")
    for _, answer in pairs:
        if not MIN_WORDS[kind] <= (number := len(answer.split())) <= MAX_WORDS[kind]:
            yield Fault("length", f"expected {MIN_WORDS[kind]} to {MAX_WORDS[kind]} words, found {number}")
    for reason, pattern in (("source", SOURCE_WORDS), ("refusal", REFUSALS), ("slot", re.compile(IMAGE_SLOT))):
        if match := pattern.search(text):
            yield Fault(reason, match.group())
    yield from _find_wrong_objects(pairs, description, objects)


def _find_wrong_objects(pairs: Pairs, description: Description, objects: Objects) -> Iterator[Fault]:
    boxes = Counter(box.category for box in description.boxes)
    crowds = {box.category for box in description.boxes if box.is_crowd}
    told = [mention for caption in description.captions for mention in objects.find(caption)]
    known = {*boxes, *(mention.category for mention in told)}
    told_numbers = {(mention.category, mention.number) for mention in told}
    for question, answer in pairs:
        asks_for_number = re.match(r"how many\b", question, re.IGNORECASE) is not None
        for mention in objects.find(answer):
            if mention.is_denied:
                continue
            if mention.category not in known:
                yield Fault("object", mention.word)
            elif mention.number is not None and mention.category in boxes.keys() - crowds:
                # Fewer may be some of them, unless all are counted.
                counts_all = asks_for_number or _COUNTS_ALL.search(mention.before)
                number = boxes[mention.category]
                if (mention.category, mention.number) not in told_numbers and (
                    mention.number > number or (mention.number < number and counts_all)
                ):
                    yield Fault("number", f"{mention.number} {mention.word}, boxes of {number}")
