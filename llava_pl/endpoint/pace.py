"""When requests are sent: one after the other, at most so many a minute, until all is stopped.

In: a rate, and waits before a request is sent again. Out: whether a request may be sent, when its turn comes.
"""

from __future__ import annotations

import time
from threading import Event, Lock


class Pace:
    """Lets requests be sent one after the other, each its share of a minute after the one before, until it is stopped.

    Args:
        max_per_minute: None for no limit.
    """

    def __init__(self, max_per_minute: float | None) -> None:
        self._seconds = 60 / max_per_minute if max_per_minute else 0.0
        self._next = 0.0
        self._lock = Lock()
        self._stopped = Event()

    def wait(self, seconds: float = 0.0) -> bool:
        """Return whether the next request may be sent, when its turn comes.

        Args:
            seconds: To wait before it gets in line.
        """
        if self._stopped.wait(seconds):
            return False
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._seconds
        return not self._stopped.wait(begin - now)

    def stop(self) -> None:
        """Let nothing more be sent; who waits is told at once."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is sent."""
        return self._stopped.is_set()
