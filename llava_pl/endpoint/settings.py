"""Where a teacher answers, and with which key; what may be shown of both.

In: options, and the environment. Out: an `Endpoint`, a key, and texts without it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import groupby
from math import inf, isfinite
from urllib.parse import urlsplit, urlunsplit

from llava_pl.types import InputError

KEY = "OPENAI_API_KEY"
_NUM_HIDDEN = 8
"""So many characters of a key in a row are not shown. A shorter one is no secret, and may be a word."""


class EndpointError(Exception):
    """An endpoint failed; the message is one line without keys.

    Args:
        message: The line.
        can_go_on: Whether the same again may do better.
    """

    def __init__(self, message: str, *, can_go_on: bool = True) -> None:
        super().__init__(message)
        self.can_go_on = can_go_on


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a teacher answers; its key is in `OPENAI_API_KEY` alone, never in a file or an option.

    Args:
        url: As OpenAI's clients take it, such as http://localhost:8000/v1.
        model: Name of the model there.
        num_at_once: Requests at the same time, 1000 at most.
        max_retries: How often a request that failed or was put off is sent again, after longer and longer waits.
        temperature: Of the answers; null leaves it to the endpoint, as some models ask for.
        max_per_minute: Most requests that are sent in a minute; no limit by default.
        timeout: Seconds of silence after which a reply is given up; it may be paid for, and is not asked for again at
            once.

    Raises:
        InputError: A number is out of range, or the URL is none.
    """

    url: str
    model: str
    num_at_once: int = 4
    max_retries: int = 5
    temperature: float | None = 0.0
    max_per_minute: float | None = None
    timeout: float = 300.0

    def __post_init__(self) -> None:
        check_range("num_at_once", self.num_at_once, 1, 1000)
        check_range("max_retries", self.max_retries, 0)
        check_range("max_per_minute", self.max_per_minute, 0, is_above=True)
        check_range("timeout", self.timeout, 0, is_above=True)
        check_writer(self.model, self.temperature)
        try:
            is_url = urlsplit(self.url).scheme in ("http", "https")
        except ValueError:
            is_url = False
        if not is_url:
            raise InputError(f"--endpoint: expected a URL such as http://localhost:8000/v1, found {self.url!r}")

    @property
    def shown_url(self) -> str:
        """The URL without what it may say to the endpoint alone."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check_writer(model: str, temperature: float | None) -> None:
    """Refuse what is no name of a model, and a temperature that is out of range.

    Raises:
        InputError: It is one of them.
    """
    if not (model.strip() and model.isprintable()):
        raise InputError(f"--model: expected the name of a model, found {model!r}")
    check_range("temperature", temperature, 0)


def check_range(option: str, value: float | None, least: float, most: float = inf, *, is_above: bool = False) -> None:
    """Refuse an option that is out of range; None is none.

    Args:
        option: Its name.
        value: As it was given.
        least: Smallest number that it may be.
        most: Largest.
        is_above: The number must be more than ``least``.

    Raises:
        InputError: It is out of range, or no number at all.
    """
    if value is None or (isfinite(value) and least <= value <= most and not (is_above and value == least)):
        return
    expected = f"more than {least:,}" if is_above else f"at least {least:,}"
    raise InputError(f"--{option}: expected {expected}{f' and at most {most:,}' if most < inf else ''}, found {value}")


def read_key() -> str:
    """Return the key of the environment.

    Raises:
        InputError: There is none, or it is none.
    """
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise InputError(f"{KEY}: expected a key, found none; export {KEY}=... (a local server takes any word)")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"{KEY}: expected letters, digits and marks of ASCII without blanks; copy the key again")
    return key


def hide_key(text: str) -> str:
    """Return a text in which no eight characters of the key in a row are left, as an endpoint may send it back."""
    key = os.environ.get(KEY, "").strip()
    runs = {key[start : start + _NUM_HIDDEN] for start in range(len(key) - _NUM_HIDDEN + 1)}
    hidden = [False] * len(text)
    for start in range(len(text) - _NUM_HIDDEN + 1 if runs else 0):
        if text[start : start + _NUM_HIDDEN] in runs:
            hidden[start : start + _NUM_HIDDEN] = [True] * _NUM_HIDDEN
    if not any(hidden):
        return text
    parts = groupby(zip(hidden, text, strict=True), key=lambda pair: pair[0])
    return "".join("[the key]" if is_hidden else "".join(each for _, each in pairs) for is_hidden, pairs in parts)
