r"""From the text a model wrote to the option it chose.

In: one generated text. Out: a `ParsedAnswer` for ``evaluation/scienceqa.py``.

The parser "llava" is the original's rule, for numbers that compare with published ones. The parser "strict" is ours.
They part on these texts (three choices):

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

Both agree on a bare letter, on ``B. blue``, and on one ``The answer is C.``; both leave ``Assistant: B``, ``B.blue``,
``a`` and the empty text unparsed. On 2,700 real answers of three published models they choose the same option;
what differs is the count of unparsed ones (7 letters beyond the choices in LLaVA-1.5-13B's 900).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from llava_pl.data.scienceqa import OPTION_LETTERS
from llava_pl.types import InputError

Parser = Literal["llava", "strict"]

# LLaVA: the unescaped dot takes any character, and one must be there; kept, published scores were counted so.
_LLAVA_STATEMENT = re.compile(r"The answer is ([A-Z]).")
# The letter stands alone: then comes the end of the text or line, punctuation before a space, or a reason.
_STRICT_STATEMENT = re.compile(
    r"\b(?i:the answer is):?\s+(?:\(([A-Z])\)|([A-Z]))(?=\s*(?:$|\n)|[.,;:!?](?:\s|$)|\s+because\b)"
)
_STRICT_OPENING = re.compile(r"(?:\(([A-E])\)\.?|([A-E])[.)]|([A-E])$)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """What a text says.

    Args:
        letter: The letter read from the text, None when it was unparsed.
        index: Index of the option, -1 when unparsed or beyond the choices; -1 is always wrong.
    """

    letter: str | None
    index: int


def parse_letter(text: str, num_choices: int, *, parser: Parser) -> ParsedAnswer:
    """Return the option that a generated text chooses.

    Args:
        text: All that the model wrote.
        num_choices: How many options the question has, at most five.
        parser: "llava" for published numbers, "strict" without its traps (table above).

    >>> parse_letter("The answer is B.", 3, parser="llava")
    ParsedAnswer(letter='B', index=1)
    >>> parse_letter("The answer is Beta.", 3, parser="strict")
    ParsedAnswer(letter=None, index=-1)
    """
    if parser not in get_args(Parser):
        raise InputError(f"parser: expected one of {', '.join(get_args(Parser))}, found {parser!r}")
    letter = _read_llava(text) if parser == "llava" else _read_strict(text)
    index = OPTION_LETTERS[:num_choices].find(letter) if letter else -1
    if parser == "strict" and index == -1:
        letter = None
    return ParsedAnswer(letter, index)


def _read_llava(text: str) -> str | None:
    if len(text) == 1 and text in OPTION_LETTERS:
        return text
    if text[:1] in tuple(OPTION_LETTERS) and text[1:3] == ". ":
        return text[0]
    letters: list[str] = _LLAVA_STATEMENT.findall(text)
    return letters[0] if len(letters) == 1 else None


def _read_strict(text: str) -> str | None:
    text = text.strip()
    matches = list(_STRICT_STATEMENT.finditer(text))
    opening = _STRICT_OPENING.match(text)
    if opening:
        matches.append(opening)
    letters = {next(group for group in match.groups() if group) for match in matches}
    return letters.pop() if len(letters) == 1 else None
