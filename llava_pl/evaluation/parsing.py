r"""From the text a model wrote to the option it chose.

In: one generated text. Out: a `ParsedAnswer` for ``evaluation/scienceqa.py``.

The parser "llava" is the original's rule, for numbers that compare with published ones. The parsers "strict" and
"lenient" are ours; "lmms-eval" is the rule of that project (75571cf), which reads a letter at the very beginning alone.
The first two part on these texts (three choices):

| text | llava | strict | why strict departs |
| --- | --- | --- | --- |
| ``The answer is C`` | unparsed | C | a missing full stop at the end is no other answer |
| ``The answer is Beta.`` | B | unparsed | a word is no letter |
| ``The answer is A dog.`` | A | unparsed | an article is no letter |
| ``The answer is A or B.`` | A | unparsed | two letters are no answer |
| ``the answer is C.`` | unparsed | C | the case of the phrase says nothing (the letter's does: "a" is an article) |
| ``The answer is (C).`` | unparsed | C | the letter as the options are printed |
| ``The answer is A. The answer is A.`` | unparsed | A | the same letter twice is one answer |
| ``B. blue. The answer is C.`` | B | unparsed | two different letters are no answer |
| `` A`` | unparsed | A | surrounding white space says nothing |
| ``(A)``, ``A)``, ``A.``, ``(A) red`` | unparsed | A | the letter as the options are printed |
| ``D``, ``The answer is F.`` | D, F with index -1 | unparsed | a letter beyond the choices names no option |

"lenient" reads what a person would still understand. It takes what "strict" reads; else the last letter that is called
the answer, option or choice; else the only letter in brackets; else the only option whose words the text holds:

| text (of the choices red, blue, light blue) | strict | lenient |
| --- | --- | --- |
| ``Answer: C``, ``Option C is right`` | unparsed | C |
| ``the correct answer is c.`` | unparsed | C |
| ``B. blue. The answer is C.`` | unparsed | C |
| ``It must be (b), I think`` | unparsed | B |
| ``Option A is wrong, option B is right`` | unparsed | B |
| ``c`` | unparsed | C |
| ``Red!``, ``I would say red`` | unparsed | A |
| ``red or blue``, ``Not red.`` | unparsed | unparsed |

"llava" and "strict" agree on a bare letter, on ``B. blue``, and on one ``The answer is C.``; both leave
``Assistant: B``, ``B.blue``, ``a`` and the empty text unparsed. On 2,700 real answers of three published models they
choose the same option; what differs is the count of unparsed ones (7 letters beyond the choices in the 900 of
LLaVA-1.5-13B).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from llava_pl.data.scienceqa import OPTION_LETTERS
from llava_pl.types import InputError

Parser = Literal["llava", "strict", "lenient", "lmms-eval"]
PARSERS: tuple[Parser, ...] = get_args(Parser)
LetterParser = Literal["exact", "strict", "lenient"]
"""For tests that ask for a letter alone: "exact" takes nothing else."""

# LLaVA: the unescaped dot takes any character, and one must be there; kept, published scores were counted so.
_LLAVA_STATEMENT = re.compile(r"The answer is ([A-Z]).")
# The letter stands alone: then comes the end of the text or line, punctuation before a space, or a reason.
_STRICT_STATEMENT = re.compile(
    r"\b(?i:the answer is):?\s+(?:\(([A-Z])\)|([A-Z]))(?=\s*(?:$|\n)|[.,;:!?](?:\s|$)|\s+because\b)"
)
_STRICT_OPENING = re.compile(r"(?:\(([A-E])\)\.?|([A-E])[.)]|([A-E])$)(?=\s|$)")
# A small letter is an answer only where nothing follows that would make a word or an article of it.
_NAMED = re.compile(
    r"(?<!\bnot )\b(?i:answer|option|choice)\b(?i:\s+is\b|\s+would\s+be\b)?\s*:?\s*"
    r"(?:\(([A-Ea-e])\)|([A-E])\b(?!'|\s+(?:or|and)\b)|([a-e])(?=\s*(?:$|[.,;:!?)\n])))"
    r"(?!\s+(?:isn't|is\s+(?:not|wrong|incorrect|false))\b)"
)
_BRACKETED = re.compile(r"(?<!not )(?<!n't )\(([A-Ea-e])\)")
_NEGATION = re.compile(r"\b(?:not|never|neither|nor)\b|n't\b", re.IGNORECASE)
_BARE = re.compile(r"\(?([A-Ea-e])[).:]?$")


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What a text says.

    Args:
        letter: The letter read from the text, None when it was unparsed.
        index: Index of the option, -1 when unparsed or beyond the choices; -1 is always wrong.
    """

    letter: str | None
    index: int


def parse_letter(text: str, choices: Sequence[str], *, parser: Parser) -> ParsedAnswer:
    """Return the option that a generated text chooses.

    Args:
        text: All that the model wrote.
        choices: The options of the question, at most five.
        parser: "llava" for published numbers, "strict" without its traps, "lenient" or "lmms-eval" (see above).

    >>> parse_letter("The answer is B.", ["yes", "no"], parser="llava")
    ParsedAnswer(letter='B', index=1)
    >>> parse_letter("The answer is Beta.", ["yes", "no"], parser="strict")
    ParsedAnswer(letter=None, index=-1)
    """
    if parser not in PARSERS:
        raise InputError(f"parser: expected one of {', '.join(PARSERS)}, found {parser!r}")
    letters = OPTION_LETTERS[: len(choices)]
    if parser == "llava":
        letter = _read_llava(text)
    elif parser == "lmms-eval":
        letter = _read_lmms_eval(text)
    else:
        letter = _read_strict(text)
        letter = letter if letter and letter in letters else None
        if parser == "lenient" and letter is None:
            letter = _read_lenient(text, choices)
    return ParsedAnswer(letter, letters.find(letter) if letter else -1)


def read_letter(text: str, choices: Sequence[str], *, parser: LetterParser) -> str | None:
    """Return the letter that a text chooses, None if it names none of the choices.

    >>> read_letter("B.", ["yes", "no"], parser="exact"), read_letter("B.", ["yes", "no"], parser="strict")
    (None, 'B')
    """
    if parser == "exact":
        return text if text in tuple(OPTION_LETTERS[: len(choices)]) else None
    return parse_letter(text, choices, parser=parser).letter


def _read_llava(text: str) -> str | None:
    if len(text) == 1 and text in OPTION_LETTERS:
        return text
    if text[:1] in tuple(OPTION_LETTERS) and text[1:3] == ". ":
        return text[0]
    letters: list[str] = _LLAVA_STATEMENT.findall(text)
    return letters[0] if len(letters) == 1 else None


def _read_lmms_eval(text: str) -> str | None:
    text = text.strip()
    if len(text) == 1 and text.upper() in OPTION_LETTERS:
        return text.upper()
    return text[0] if text[:1].isupper() and text[1:2] == "." else None


def _read_strict(text: str) -> str | None:
    text = text.strip()
    matches = list(_STRICT_STATEMENT.finditer(text))
    opening = _STRICT_OPENING.match(text)
    if opening:
        matches.append(opening)
    letters = {next(group for group in match.groups() if group) for match in matches}
    return letters.pop() if len(letters) == 1 else None


def _read_lenient(text: str, choices: Sequence[str]) -> str | None:
    text, letters = text.strip(), OPTION_LETTERS[: len(choices)]
    named = [next(group for group in match.groups() if group).upper() for match in _NAMED.finditer(text)]
    if bare := _BARE.match(text):
        named.append(bare[1].upper())
    if found := [letter for letter in named if letter in letters]:
        return found[-1]
    bracketed: set[str] = {letter.upper() for letter in _BRACKETED.findall(text)}
    if len(bracketed) == 1 and bracketed <= set(letters):
        return bracketed.pop()
    return _find_only_choice(text, choices)


def _find_only_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the only choice whose words a text holds; of "blue" within "light blue" the longer one."""
    if _NEGATION.search(text) and not any(_NEGATION.search(choice) for choice in choices):
        return None
    words = f" {_words(text)} "
    held = [f" {_words(choice)} " for choice in choices]
    found = [place for place, choice in enumerate(held) if choice.strip() and choice in words]
    longest = [place for place in found if not any(held[place] in held[o] and o != place for o in found)]
    return OPTION_LETTERS[longest[0]] if len(longest) == 1 else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
