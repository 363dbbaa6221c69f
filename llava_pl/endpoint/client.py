"""One question to an endpoint: sent when its turn comes, again while it is put off, and read with care.

In: messages. Out: a `Reply`, or the `Failure` that stands for it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypedDict

from llava_pl.endpoint.pace import Pace
from llava_pl.endpoint.settings import Endpoint, hide_key, read_key
from llava_pl.types import InputError

CHARACTERS_PER_TOKEN = 4
"""About right for English; where an endpoint counts no tokens, they are taken from this."""

TOKENS_PER_REPLY = 350
"""A guess, where nothing is known of a reply's length."""

_TOKENS_PER_MESSAGE = 8
"""More than a model's template puts around one."""

_NAMES_OF_MOST = "max_tokens", "max_completion_tokens"
"""The older name is understood by most endpoints; OpenAI's reasoning models refuse it, and name the other."""

_ADVICE = {
    401: "check OPENAI_API_KEY",
    402: "check the account",
    403: "check what the key may do",
    404: "check --endpoint and --model",
}
"""Of statuses that all requests will get."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
_LONGEST_WAIT_ASKED_FOR = 120.0
"""Seconds; an endpoint that asks for a longer one will not answer today."""

_CAUSES_OF_NOBODY = ("ConnectError", "ConnectTimeout")
"""Nothing was sent; after any other error of a connection, a request may have been."""


class Message(TypedDict):
    """One message to a model: its ``role`` (system, user or assistant) and its ``content``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Args:
        text: What the model wrote; "" if it said nothing.
        finish: Why it ended, as the endpoint calls it: "stop", or "length" where it was cut off.
        num_read: Tokens of the request, as the endpoint counts them; of its characters where it does not.
        num_written: Tokens of the reply, in the same way.
    """

    text: str
    finish: str = "stop"
    num_read: int = 0
    num_written: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no reply.

    Args:
        words: The endpoint's, in one line without keys.
        is_for_all: Others would fail as well: the key is wrong, or nobody is there.
        advice: What to do about it; "" where the same again may do.
        num_read: Most tokens of the request that may be paid for all the same; 0 where it was not worked on.
        num_written: Most tokens of a reply that may have been written, and did not come.
    """

    words: str
    is_for_all: bool = False
    advice: str = ""
    num_read: int = 0
    num_written: int = 0


_NO_COMPLETION = Failure("expected a chat completion, found something else; does the URL end in /v1?")


def count_most_tokens(messages: Sequence[Message]) -> int:
    """Return how many tokens a request has at most: as many as bytes, in any script.

    >>> count_most_tokens([Message(role="user", content="12?")])
    11
    """
    return sum(len(each["content"].encode("utf-8", "surrogatepass")) + _TOKENS_PER_MESSAGE for each in messages)


class Client:
    """Asks an endpoint; several threads may at once.

    Args:
        endpoint: Where.
        pace: When.
        max_tokens: Of a reply; None leaves it to the endpoint.

    Raises:
        InputError: OpenAI's client is not installed, or there is no key.
    """

    def __init__(self, endpoint: Endpoint, pace: Pace, max_tokens: int | None) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise InputError(
                "--endpoint: needs OpenAI's client; pip install -e '.[teacher]' in the checkout"
            ) from error
        # What it would send again by itself keeps to no pace and is not stopped.
        client = OpenAI(base_url=endpoint.url, api_key=read_key(), max_retries=0, timeout=endpoint.timeout)
        self._create: Callable[..., Any] = client.chat.completions.create
        self._max_retries, self._pace, self._max_tokens = endpoint.max_retries, pace, max_tokens
        options = {"temperature": endpoint.temperature, _NAMES_OF_MOST[0]: max_tokens}
        given = {name: value for name, value in options.items() if value is not None}
        self._options: dict[str, Any] = {"model": endpoint.model, **given}

    def ask(self, messages: Sequence[Message]) -> Reply | Failure | None:
        """Return what came of a request; None where all was stopped before it could be sent, or sent again."""
        from openai import OpenAIError

        seconds, num_waits = 0.0, 0
        while self._pace.wait(seconds):
            options = self._options  # another thread may change them meanwhile
            try:
                reply = _read(self._create(messages=messages, **options), messages)
            except (OpenAIError, ValueError) as error:  # a body that is no JSON is the latter
                if _asks_for_other_name(error, options):
                    older, newer = _NAMES_OF_MOST
                    self._options = {newer if name == older else name: value for name, value in options.items()}
                    seconds = 0.0
                    continue
                wait = _seconds_to_wait(error, num_waits) if num_waits < self._max_retries else None
                if wait is None:
                    failure = _explain(error)
                    return self._with_cost(failure, messages) if _may_cost(error) else failure
                seconds, num_waits = wait, num_waits + 1
            else:
                return self._with_cost(_NO_COMPLETION, messages) if reply is None else reply
        return None

    def _with_cost(self, failure: Failure, messages: Sequence[Message]) -> Failure:
        most_written = self._max_tokens or TOKENS_PER_REPLY
        return replace(failure, num_read=count_most_tokens(messages), num_written=most_written)


def _asks_for_other_name(error: Exception, options: Mapping[str, Any]) -> bool:
    from openai import BadRequestError

    older, newer = _NAMES_OF_MOST
    return isinstance(error, BadRequestError) and older in options and newer in str(error.body)


def _read(answer: Any, messages: Sequence[Message]) -> Reply | None:  # noqa: ANN401  the client checks no types
    """Return a reply, None where it is none."""
    choices = getattr(answer, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    content = getattr(message, "content", None)
    if isinstance(content, list):
        content = "".join(text for part in content if isinstance(text := _text_of(part), str))
    if message is None or not isinstance(content, str | None):
        return None
    text = _clean(content or "")
    usage = getattr(answer, "usage", None)
    return Reply(
        text,
        _clean(str(getattr(choice, "finish_reason", None) or "stop")),
        _count(getattr(usage, "prompt_tokens", None), sum(len(each["content"]) for each in messages)),
        _count(getattr(usage, "completion_tokens", None), len(text)),
    )


def _text_of(part: Any) -> Any:  # noqa: ANN401
    return part.get("text") if isinstance(part, Mapping) else getattr(part, "text", None)


def _clean(text: str) -> str:
    """Return a text that every file can hold, without the key: halves of a character are joined or replaced."""
    return hide_key(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _count(tokens: object, num_characters: int) -> int:
    return tokens if isinstance(tokens, int) and tokens > 0 else -(-num_characters // CHARACTERS_PER_TOKEN)


def _explain(error: Exception) -> Failure:
    from openai import APIConnectionError, APIStatusError

    words = hide_key(" ".join(str(error).split()))
    if isinstance(error, APIStatusError):
        advice = _ADVICE.get(error.status_code, "")
        return Failure(words, is_for_all=bool(advice), advice=advice)
    if isinstance(error, APIConnectionError):
        cause = type(error.__cause__).__name__  # of the client's own HTTP library
        if cause == "ReadTimeout":
            return Failure("no reply in --timeout")
        return Failure(words, is_for_all=True) if cause in _CAUSES_OF_NOBODY else Failure("the connection broke")
    return _NO_COMPLETION


def _may_cost(error: Exception) -> bool:
    """Return whether a request may have been worked on, and a reply was lost on its way."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code in (408, 504)
    return not isinstance(error, APIConnectionError) or type(error.__cause__).__name__ not in _CAUSES_OF_NOBODY


def _seconds_to_wait(error: Exception, num_waits: int) -> float | None:
    """Return after how many seconds a request is sent again; None where it would fail again, or cost twice."""
    from openai import APIStatusError

    if _may_cost(error):
        return None
    if isinstance(error, APIStatusError):
        if error.status_code not in (409, 429) and error.status_code < 500:
            return None
        asked_for = _read_wait(error.response.headers)
        if asked_for is not None:
            return asked_for if asked_for <= _LONGEST_WAIT_ASKED_FOR else None
    longest = min(_FIRST_WAIT * 2.0 ** min(num_waits, 10), _LONGEST_WAIT)
    return longest * random.uniform(0.75, 1)  # not all at the same time


def _read_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an endpoint asks to wait, None where it does not."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            if (seconds := float(headers.get(name, "")) / divisor) >= 0:
                return seconds
        except ValueError:
            continue
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
