"""What a teacher wrote to turns of a conversation.

In: its text. Out: questions and answers, or why there are none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llava_pl.building.prompts import Kind

Pairs = list[tuple[str, str]]
"""Questions with their answers."""

_MARK = re.compile(
    r"^[ \t*#>-]*(?:\d+[.)][ \t*]*)?(question|answer)(?:[ \t]*\d+)?[ \t*]*:[ \t*]*", re.IGNORECASE | re.MULTILINE
)

# What is written around a text for whoever asked for it, or by a model that did not end: none of it is to be learned.
_AROUND = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"</?think\w*>|<\||\|>|</?s>|\[/?inst\]|<(?:bos|eos|end_of_turn|start_of_turn)>",  # tokens of a model
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]",  # control characters
        r"```",  # code fences
        r"(?m:^[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*$)",  # a rule
        r"(?m:^[ \t]*(?:#+[ \t].*|\*\*[^*\n]+\*\*:?[ \t]*)$)",  # a heading
        r"\A\W*(?:(?:detailed |image |picture )?(?:description|answer|response|output))\**:",  # another
        r"\A\W*(?:sure|certainly|of course|absolutely|okay|ok)\b[^\w\n]",  # an opening
        r"\A\W*here(?:'s| is| are)\b[^\n.]*:[ \t]*(?:\n|\Z)",  # another
        r"(?:\A|[.!?]\s+|\n\s*)(?:please )?(?:let me know|feel free to|i hope (?:this|that|it)|would you like me"
        r"|is there anything else|if you(?:'d| would) like (?:me|more))\b[^\n]*\Z",  # a closing
    )
)


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
    text = text.strip()
    if not text:
        return Fault("empty", "nothing was written")
    if kind == "detailed":
        if mark := _MARK.search(text):
            return Fault("form", f"expected a description alone, found {mark.group().strip()!r}")
        return _find_around(text) or [(question, text)]
    before, *rest = _MARK.split(text)
    if before.strip():
        return Fault("form", f"expected 'Question:' first, found {before.strip()[:60]!r}")
    roles, texts = [role.lower() for role in rest[::2]], [_strip(part) for part in rest[1::2]]
    if roles != ["question", "answer"] * (len(roles) // 2) or not roles:
        return Fault("form", f"expected questions and answers in turns, found {', '.join(roles) or 'none'}")
    if not all(texts):
        return Fault("form", f"expected words behind each mark, found none behind {roles[texts.index('')]!r}")
    # An answer may begin with "Sure", the text may not.
    return _find_around("\n".join(texts)) or list(zip(texts[::2], texts[1::2], strict=True))


def plain_quotes(text: str) -> str:
    """Return a text with straight quotes for curly ones, by which rules are written."""
    return text.replace("\u2019", "'").replace("\u2018", "'").replace("\u201c", '"').replace("\u201d", '"')


def _strip(part: str) -> str:
    """Return what stands behind a mark, without the end of what was bold along with it."""
    part = part.strip()
    return part.removesuffix("**").rstrip() if part.count("**") % 2 else part


def _find_around(text: str) -> Fault | None:
    for pattern in _AROUND:
        if match := pattern.search(plain_quotes(text)):
            return Fault("form", f"expected the text alone, found {match.group().strip()[:60]!r}")
    return None
