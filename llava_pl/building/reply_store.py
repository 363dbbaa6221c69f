"""What a teacher wrote, kept by what it was asked: nothing is paid for twice, and a set can be made anew by anyone.

In: a file, and requests. Out: replies by request. A request is known by a hash of all that decides its reply: model,
temperature and messages. Where it was sent, and with which key, is no part of it; nor is the longest reply, which
decides of few, and of those their lines tell.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import append_line, cut_torn_line, read_json_lines
from llava_pl.endpoint import Failure, Message, Reply, check_range, check_writer
from llava_pl.types import InputError

_LINE_START = b'{"request": "'


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who writes, and how.

    Args:
        model: Name of the model.
        temperature: Of what it writes; None for the endpoint's own.
        max_tokens: Longest reply; None for the endpoint's own.

    Raises:
        InputError: There is no name, or a number is out of range.
    """

    model: str
    temperature: float | None
    max_tokens: int | None

    def __post_init__(self) -> None:
        check_writer(self.model, self.temperature)
        check_range("max_tokens", self.max_tokens, 1)


def hash_request(teacher: Teacher, messages: Sequence[Message]) -> str:
    """Return the name of a request, the same on every machine."""
    asked = {"model": teacher.model, "temperature": teacher.temperature, "messages": list(messages)}
    return sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class ReplyStore:
    """A file of replies, one a line, that is only ever added to; what failed is in it too, with the endpoint's words.

    Reading changes nothing. What a kill has left of the last line is passed over, and dropped when something is added.

    Args:
        path: The file; it is made when something is added.

    Attributes:
        num_read: Tokens of all requests that were answered, whether or not they were asked again, and most tokens of
            those that may have been paid for without an answer.
        num_written: Tokens of their replies, in the same way.
        failed: The endpoint's words by request, of requests without a reply.

    Raises:
        InputError: It is no file of replies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replies: dict[str, Reply] = {}
        self._kinds: dict[str, str] = {}
        self._most: dict[str, int | None] = {}
        self.num_read = self.num_written = 0
        self.failed: dict[str, str] = {}
        self._is_whole = False
        if path.exists():
            for where, row in read_json_lines(path, _LINE_START):
                self._read(row, where)

    def count(self, kinds: Collection[str]) -> int:
        """Return how many requests of these kinds have a reply, of this run or not."""
        return sum(self._kinds[request] in kinds for request in self._replies)

    def find(self, request: str) -> Reply | None:
        """Return the reply to a request, None where there is none yet."""
        return self._replies.get(request)

    def is_missing(self, request: str, max_tokens: int | None) -> bool:
        """Return whether a request is to be asked: there is no reply, or one that was cut off and may be longer now.

        Args:
            request: Its name.
            max_tokens: Longest reply that is asked for now.
        """
        reply = self._replies.get(request)
        if reply is None:
            return True
        return reply.finish == "length" and _or_inf(max_tokens) > _or_inf(self._most[request])

    def add(self, request: str, image: str, kind: str, outcome: Reply | Failure, max_tokens: int | None = None) -> None:
        """Keep what came of a request; it is on the disk when this returns.

        Args:
            request: Its name.
            image: What it is about, for those who read the file.
            kind: Of what was asked for.
            outcome: The reply, or why there is none.
            max_tokens: Longest reply that was asked for; None for the endpoint's own.

        Raises:
            InputError: The file cannot be written.
        """
        line: dict[str, Any] = {"request": request, "image": image, "kind": kind}
        if isinstance(outcome, Reply):
            line |= {**asdict(outcome), "max_tokens": max_tokens}
        elif self.failed.get(request) == outcome.words and not (outcome.num_read or outcome.num_written):
            return  # it is known
        else:
            line |= {"failed": outcome.words, "num_read": outcome.num_read, "num_written": outcome.num_written}
        try:
            if not self._is_whole and self._path.exists():
                cut_torn_line(self._path, _LINE_START)
            self._is_whole = True
            append_line(self._path, json.dumps(line, ensure_ascii=False))
        except OSError as error:
            raise InputError(
                f"{self._path}: a reply cannot be kept ({error.strerror}); make room, then the same command goes on"
            ) from error
        self._take(request, kind, outcome, max_tokens)

    def _read(self, row: Mapping[str, Any], where: str) -> None:
        match {"num_read": 0, "num_written": 0, **row} if "failed" in row else row:
            case {
                "request": str(request),
                "kind": str(kind),
                "failed": str(words),
                "num_read": int(num_read),
                "num_written": int(num_written),
            } if num_read >= 0 and num_written >= 0:
                self._take(request, kind, Failure(words, num_read=num_read, num_written=num_written), None)
            case {
                "request": str(request),
                "kind": str(kind),
                "text": str(text),
                "finish": str(finish),
                "num_read": int(num_read),
                "num_written": int(num_written),
                "max_tokens": int() | None as max_tokens,
            } if num_read >= 0 and num_written >= 0:
                self._take(request, kind, Reply(text, finish, num_read, num_written), max_tokens)
            case _:
                raise InputError(f"{where}: expected what data instruct keeps of a reply, found {str(row)[:200]}")

    def _take(self, request: str, kind: str, outcome: Reply | Failure, max_tokens: int | None) -> None:
        self.num_read += outcome.num_read
        self.num_written += outcome.num_written
        if isinstance(outcome, Failure):
            if request not in self._replies:
                self.failed[request] = outcome.words
            return
        self.failed.pop(request, None)
        self._replies[request], self._kinds[request], self._most[request] = outcome, kind, max_tokens


def _or_inf(max_tokens: int | None) -> float:
    return inf if max_tokens is None else max_tokens
