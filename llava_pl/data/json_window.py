"""A long JSON text seen through a window: values are parsed one by one, and a fault is placed in the whole file.

In: pieces of text, cut anywhere. Out: the values that `sources.read_entries` asks for, and the same words that
`json.loads` has for a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_pl.types import InputError

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode

# A fault this close to the window's end may be no more than a literal or escape that the end cuts: the longest are
# "-Infinity" and a pair of \uXXXX escapes. A value this close to it may go on: 12 of 123, or the 1 of "1e+" and "5".
_CUT_LENGTH = 16


class JsonWindow:
    """The part of a JSON text that is being parsed.

    Args:
        path: The file, for messages.
        chunks: Its text in pieces, none empty.
    """

    def __init__(self, path: Path, chunks: Iterator[str]) -> None:
        self.start = 0
        self._path = path
        self._chunks = chunks
        self._text = ""
        self._line = 1
        self._column = 1

    def peek(self) -> str:
        """Return the next character that is no space, without passing it; "" at the end of the file."""
        if (mark := self._text[self.start : self.start + 1]) in (",", "{", "]"):
            return mark  # mostly so, and faster than the pattern
        while True:
            space = _SPACE.match(self._text, self.start)
            assert space is not None, "the pattern matches the empty string"
            self.start = space.end()
            if self.start < len(self._text):
                return self._text[self.start]
            if not self._grow():
                return ""

    def read_value(self) -> Any:  # noqa: ANN401  JSON is any type until it is validated
        """Return the value that starts here and pass it.

        Raises:
            InputError: It is no JSON; line and column of the file are named.
        """
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self.start)
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._text) - _CUT_LENGTH or error.msg.startswith("Unterminated string")
                if not (is_cut and self._grow()):
                    raise self.error(error.msg, error.pos) from error
            except (RecursionError, ValueError) as error:  # nested or a number too long for Python's reader
                raise InputError(f"{self._path}: invalid JSON: {error}") from error
            else:
                if end < len(self._text) - _CUT_LENGTH or not self._grow():
                    self.start = end
                    return value

    def error(self, message: str, position: int | None = None) -> InputError:
        """Return the error for a fault at a position of the window, by default where it stands."""
        line, column = self._place(self.start if position is None else position)
        return InputError(f"{self._path}: invalid JSON at line {line}, column {column}: {message}")

    def _place(self, position: int) -> tuple[int, int]:
        newlines = self._text.count("\n", 0, position)
        if not newlines:
            return self._line, self._column + position
        return self._line + newlines, position - self._text.rindex("\n", 0, position)

    def _grow(self) -> bool:
        """Drop what was passed and read on, at least as much as is left, so that a long value costs linear time."""
        missing = max(len(self._text) - self.start, 1)
        pieces: list[str] = []
        while missing > 0 and (chunk := next(self._chunks, "")):
            pieces.append(chunk)
            missing -= len(chunk)
        if not pieces:
            return False
        self._line, self._column = self._place(self.start)
        self._text = "".join((self._text[self.start :], *pieces))
        self.start = 0
        return True
