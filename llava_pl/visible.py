"""Text as terminals and pages can show it, whatever a file or a model has put into it."""

from __future__ import annotations


def visible(text: str) -> str:
    r"""Return text with line breaks marked and other control characters written out.

    >>> visible("a\x1b[31m")
    'a\\x1b[31m'
    """
    marked = text.replace("\n", "\u21b5")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in marked)
