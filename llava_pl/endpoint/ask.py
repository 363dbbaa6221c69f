"""Many questions to an endpoint, several at once; what goes wrong with one stops no other.

In: messages by name, taken as they are sent. Out: what came of each, by name, as it comes. Nothing is kept here: the
caller keeps each reply at once, as it was paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice, takewhile
from threading import Event, Lock
from typing import Protocol

from llava_pl.endpoint.client import Client, Failure, Message, Reply
from llava_pl.endpoint.pace import Pace
from llava_pl.endpoint.settings import Endpoint, EndpointError

MAX_FAILED_IN_A_ROW = 10
"""More fail for what they have in common, such as an option."""


class Allowance(Protocol):
    """Decides how much is sent; told of all that comes of it."""

    def may_send(self) -> bool:
        """Return whether another request may be sent; may wait until that is known."""

    def settle(self, outcome: Reply | Failure | None) -> None:
        """Count what came of a request that was allowed; None if it was not sent."""


def ask_all(
    endpoint: Endpoint,
    requests: Iterable[tuple[str, Sequence[Message]]],
    keep: Callable[[str, Reply | Failure], object],
    *,
    max_tokens: int | None = None,
    allowance: Allowance | None = None,
) -> None:
    """Ask, and hand on what comes of each request.

    What is on its way when something fails for all, or when the user interrupts, still comes and is handed on, as it
    was paid for; nothing else is sent, and nothing again. A request that fails stops no other, but many in a row do.

    Args:
        endpoint: Where to ask.
        requests: Names and messages; an iterator is drawn from as they are sent, so that few are in memory.
        keep: Told of each reply, or why there is none, with the name of its request; one at a time, by the thread that
            was sent it and before that thread asks again. Once it raises, nothing more is sent.
        max_tokens: Of a reply; None leaves it to the endpoint.
        allowance: Asked before each request, by several threads; once it says no, no other is sent.

    Raises:
        InputError: The client is not installed, or there is no key.
        EndpointError: Some requests failed, or the endpoint cannot be reached.
    """
    pace, trouble, lock = Pace(endpoint.max_per_minute), _Trouble(), Lock()
    client, is_used_up = Client(endpoint, pace, max_tokens), Event()

    def ask(name: str, messages: Sequence[Message]) -> None:
        if pace.is_stopped:
            return
        if allowance is not None and not allowance.may_send():
            is_used_up.set()
            return
        outcome = None
        try:
            outcome = client.ask(messages)
            if outcome is not None:
                with lock:
                    if trouble.is_final_after(outcome):
                        pace.stop()
                    keep(name, outcome)
        except BaseException:
            pace.stop()
            raise
        finally:
            if allowance is not None:
                allowance.settle(outcome)

    left = takewhile(lambda _: not (pace.is_stopped or is_used_up.is_set()), requests)
    with ThreadPoolExecutor(endpoint.num_at_once) as pool:
        try:
            _wait_for((pool.submit(ask, *each) for each in left), 2 * endpoint.num_at_once)
        finally:
            pace.stop()
            pool.shutdown(wait=False, cancel_futures=True)  # the block waits
    if (error := trouble.explain(endpoint)) is not None:
        raise error


def _wait_for(futures: Iterator[Future[None]], max_running: int) -> None:
    """Draw futures, so many at a time, until all are done; raise what one of them raises."""
    running: set[Future[None]] = set()
    while running := running | set(islice(futures, max_running - len(running))):
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()


class _Trouble:
    """What went wrong, and whether more may be sent after it."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self._num_in_a_row = 0
        self._final: Failure | None = None

    def is_final_after(self, outcome: Reply | Failure) -> bool:
        """Count what came of a request, and return whether nothing more is to be sent."""
        if isinstance(outcome, Reply):
            self._num_in_a_row = 0
            return False
        self._failures.append(outcome)
        self._num_in_a_row += 1
        if self._final is None and (outcome.is_for_all or self._num_in_a_row >= MAX_FAILED_IN_A_ROW):
            self._final = outcome
        return self._final is not None

    def explain(self, endpoint: Endpoint) -> EndpointError | None:
        """Return what to tell the user, None if nothing went wrong."""
        if not self._failures:
            return None
        failure, before = self._final or self._failures[0], ""
        if self._final is None and len(self._failures) > 1:
            before = f"{len(self._failures):,} requests failed, the first: "
        elif self._final is not None and not failure.is_for_all:
            before = f"{MAX_FAILED_IN_A_ROW} requests in a row failed, the last: "
        text = f"--endpoint {endpoint.shown_url}: {before}{failure.words}"
        return EndpointError(f"{text}; {failure.advice}" if failure.advice else text, can_go_on=not failure.advice)
