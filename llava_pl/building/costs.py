"""What a teacher costs: an estimate before anything is spent, and a limit while it is.

In: requests and replies. Out: dollars. Tokens are those that the endpoint counts; before it was asked, they are taken
from characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Condition

from llava_pl.endpoint import CHARACTERS_PER_TOKEN, TOKENS_PER_REPLY, Failure, Message, Reply, check_range

FEW_REPLIES = 10
"""With fewer, a reply's length is taken to be `TOKENS_PER_REPLY`."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What an endpoint asks for.

    Args:
        read: Dollars for a million tokens of requests.
        written: Dollars for a million tokens of replies.
    """

    read: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        check_range("prices.read", self.read, 0)
        check_range("prices.written", self.written, 0)

    def cost(self, num_read: float, num_written: float) -> float:
        """Return dollars."""
        return (num_read * self.read + num_written * self.written) / 1e6


def estimate(
    requests: Iterable[Sequence[Message]], replies: Sequence[Reply], max_tokens: int | None = None
) -> tuple[float, float]:
    """Return how many tokens requests will have read, and how many will be written.

    Args:
        requests: What would be asked.
        replies: What was written before, by which the length of others is judged.
        max_tokens: Longest reply that is asked for; None for the endpoint's own.
    """
    characters = [sum(len(message["content"]) for message in messages) for messages in requests]
    lengths = [reply.num_written for reply in replies if reply.num_written]
    length = sum(lengths) / len(lengths) if len(lengths) >= FEW_REPLIES else TOKENS_PER_REPLY
    length = length if max_tokens is None else min(length, max_tokens)
    return sum(characters) / CHARACTERS_PER_TOKEN, length * len(characters)


class Budget:
    """Says whether another request may be sent; several threads may ask.

    Args:
        limit: Dollars that may be spent in all; None for no limit.
        prices: What is asked for.
        most: Dollars that a request costs at most, which are set aside until it is answered.
        spent: Dollars that were spent before.
    """

    def __init__(self, limit: float | None, prices: Prices, most: float, spent: float = 0.0) -> None:
        self.spent = spent
        self._limit, self._prices, self._most = limit, prices, most
        self._num_running = 0
        self._changed = Condition()

    def may_send(self) -> bool:
        """Return whether what was spent, what is on its way and one more keep to the limit; if so, it is counted.

        While something is on its way, which may cost less than was set aside, it is waited for.
        """
        with self._changed:
            while self._limit is not None and self.spent + (self._num_running + 1) * self._most > self._limit:
                if not self._num_running:
                    return False
                self._changed.wait()
            self._num_running += 1
            return True

    def settle(self, outcome: Reply | Failure | None) -> None:
        """Count what a request has cost that was counted before, or may have cost where that is not known."""
        with self._changed:
            self._num_running -= 1
            if outcome is not None:
                cost = self._prices.cost(outcome.num_read, outcome.num_written)
                self._most = max(self._most, cost)  # an endpoint that keeps to no limit
                self.spent += cost
            self._changed.notify_all()
