"""Questions to a model behind any endpoint of OpenAI's kind, several at once, sent again when they were put off.

In: messages by name. Out: what is answered, by name, as it comes. Nothing is kept here: the caller keeps each answer at
once, as it was paid for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit, urlunsplit

from llava_pl.types import InputError

if TYPE_CHECKING:
    from openai import OpenAI


_REFUSED = (400, 413, 422)
"""Statuses by which one request is refused, for its length or its words; others may be taken."""

_MAX_REFUSED_IN_A_ROW = 3
"""More are refused for what they have in common, such as an option."""


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
        num_read: Tokens of the request, as the endpoint counts them; 0 where it does not.
        num_written: Tokens of the reply.
    """

    text: str
    finish: str = "stop"
    num_read: int = 0
    num_written: int = 0


class EndpointError(Exception):
    """An endpoint refused or could not be reached; the message is one line without keys."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a teacher answers; its key is in `OPENAI_API_KEY` alone, never in a file or an option.

    Args:
        url: As OpenAI's clients take it, such as http://localhost:8000/v1.
        model: Name of the model there.
        num_at_once: Requests at the same time.
        max_retries: How often a request that failed or was put off is sent again, after longer and longer waits.
        temperature: Of the answers; None leaves it to the endpoint, as some models ask for.
        max_per_minute: Most requests that are begun in a minute; None for no limit.

    Raises:
        InputError: A number is too small, or the URL is none.
    """

    url: str
    model: str
    num_at_once: int = 4
    max_retries: int = 5
    temperature: float | None = 0.0
    max_per_minute: float | None = None

    def __post_init__(self) -> None:
        for option, value, least in (("num_at_once", self.num_at_once, 1), ("max_retries", self.max_retries, 0)):
            if value < least:
                raise InputError(f"--{option}: expected at least {least}, found {value}")
        if self.max_per_minute is not None and not self.max_per_minute > 0:
            raise InputError(f"--max_per_minute: expected more than 0, found {self.max_per_minute}")
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


def ask_all(
    endpoint: Endpoint,
    requests: Mapping[str, Sequence[Message]],
    keep: Callable[[str, Reply], object],
    *,
    max_tokens: int | None = None,
    may_send: Callable[[], bool] = lambda: True,
) -> None:
    """Ask, and hand on each reply as it comes.

    What is on its way when something fails, or when the user interrupts, still comes and is handed on, as it was paid
    for; nothing else is sent. A request that is refused for itself stops no other.

    Args:
        endpoint: Where to ask.
        requests: Messages by name.
        keep: Told of each reply with the name of its request, one at a time, by the thread that was sent it and before
            that thread asks again.
        max_tokens: Of a reply; None leaves it to the endpoint.
        may_send: Asked before each request, by several threads; once it says no, no other is sent.

    Raises:
        InputError: The client is not installed.
        EndpointError: The endpoint refuses, or cannot be reached.
    """
    client = _make_client(endpoint)
    pace, lock = _Pace(endpoint.max_per_minute), Lock()

    def ask(name: str, messages: Sequence[Message]) -> bool:
        if not may_send():
            return False
        pace.wait()
        reply = _ask(client, endpoint, messages, max_tokens)
        with lock:
            keep(name, reply)
        return True

    trouble = _Trouble()
    with ThreadPoolExecutor(endpoint.num_at_once) as pool:
        futures = [pool.submit(ask, name, messages) for name, messages in requests.items()]
        try:
            for future in as_completed(futures):
                if not future.cancelled() and not trouble.goes_on_after(future):
                    _cancel(futures)
        finally:
            _cancel(futures)
    if (failure := trouble.explain(endpoint)) is not None:
        raise failure


def _make_client(endpoint: Endpoint) -> OpenAI:
    try:
        from openai import OpenAI, OpenAIError
    except ImportError as error:
        raise InputError("--endpoint: needs OpenAI's client; pip install -e '.[teacher]' in the checkout") from error
    try:
        return OpenAI(base_url=endpoint.url, max_retries=endpoint.max_retries)
    except OpenAIError as error:  # such as a missing key
        raise _explain(endpoint, error) from error


def _ask(client: OpenAI, endpoint: Endpoint, messages: Sequence[Message], max_tokens: int | None) -> Reply:
    from openai import OpenAIError
    from openai.types.chat import ChatCompletion

    options = {"temperature": endpoint.temperature, "max_tokens": max_tokens}
    given = {name: value for name, value in options.items() if value is not None}
    answer = client.chat.completions.create(model=endpoint.model, messages=list(messages), **given)  # type: ignore[call-overload]
    if not isinstance(answer, ChatCompletion) or not answer.choices or answer.choices[0].message is None:
        raise OpenAIError("expected a chat completion, found something else; does the URL end in /v1?")
    choice, usage = answer.choices[0], answer.usage
    read, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return Reply(choice.message.content or "", choice.finish_reason or "stop", read or 0, written or 0)


class _Pace:
    """Lets requests begin one after the other, each its share of a minute after the one before.

    Args:
        max_per_minute: None for no limit.
    """

    def __init__(self, max_per_minute: float | None) -> None:
        self._seconds = 60 / max_per_minute if max_per_minute else 0.0
        self._next = 0.0
        self._lock = Lock()

    def wait(self) -> None:
        """Return when the next request may begin."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._seconds
        time.sleep(begin - now)


class _Trouble:
    """What went wrong, and whether more may be sent after it."""

    def __init__(self) -> None:
        self._failure: Exception | None = None
        self._refused: list[Exception] = []
        self._num_in_a_row = 0

    def goes_on_after(self, future: Future[bool]) -> bool:
        from openai import OpenAIError

        try:
            was_sent = future.result()
        except (OpenAIError, ValueError) as error:  # a body that is no JSON is the latter
            self._num_in_a_row += 1
            if getattr(error, "status_code", None) in _REFUSED and self._num_in_a_row <= _MAX_REFUSED_IN_A_ROW:
                self._refused.append(error)
                return True
            self._failure = self._failure or error
            return False
        self._num_in_a_row = 0
        return was_sent

    def explain(self, endpoint: Endpoint) -> EndpointError | None:
        if self._failure is not None:
            return _explain(endpoint, self._failure)
        if self._refused:
            return _explain(endpoint, self._refused[0], f"{len(self._refused):,} requests were refused, the first: ")
        return None


def _explain(endpoint: Endpoint, error: Exception, before: str = "") -> EndpointError:
    text = " ".join(str(error).split())
    if key := os.environ.get("OPENAI_API_KEY"):
        text = text.replace(key, "[the key]")  # an endpoint may send it back
    return EndpointError(f"--endpoint {endpoint.shown_url}: {before}{text}")


def _cancel(futures: Iterable[Future[bool]]) -> None:
    for future in futures:
        future.cancel()
