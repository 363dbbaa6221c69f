"""Doctests that stand in a docstring without a heading, as code: Markdown would make quotations of their `>>>`.

In: docstrings as griffe has read them. Out: the same with ``Examples:`` in front of each block of doctests.
"""

from __future__ import annotations

import re

from griffe import Extension, Object

_BLOCK = re.compile(r"^(>>> .*(?:\n.+)*)", re.MULTILINE)


class Doctests(Extension):
    """Gives doctests their heading."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Put the heading in front of the doctests of an object, each of which ends with an empty line."""
        if obj.docstring is not None:
            obj.docstring.value = _BLOCK.sub(_with_heading, obj.docstring.value)


def _with_heading(match: re.Match[str]) -> str:
    return "Examples:\n" + "\n".join(f"    {line}" for line in match[1].splitlines())
