"""What a teacher wrote, kept by what it was asked: nothing is paid for twice, and a set can be made anew by anyone.

In: a file, and requests. Out: replies by request. A request is known by a hash of all that decides its reply: model,
messages, temperature and longest reply. Where it was sent, and with which key, is no part of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path

from llava_pl.data.json_files import cut_torn_line, read_json_lines
from llava_pl.endpoint import Message, Reply
from llava_pl.types import InputError

_LINE_START = b'{"request": "'


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who writes, and how.

    Args:
        model: Name of the model.
        temperature: Of what it writes; None for the endpoint's own.
        max_tokens: Longest reply; None for the endpoint's own.
    """

    model: str
    temperature: float | None = 0.7
    max_tokens: int | None = 1024


def hash_request(teacher: Teacher, messages: Sequence[Message]) -> str:
    """Return the name of a request, the same on every machine."""
    content = json.dumps({**asdict(teacher), "messages": list(messages)}, sort_keys=True, ensure_ascii=True)
    return sha256(content.encode()).hexdigest()


class WrittenStore:
    """A file of replies, one a line, that is only ever added to.

    Args:
        path: The file; it is made when something is added.

    Raises:
        InputError: It is no file of replies.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replies: dict[str, Reply] = {}
        if not path.exists():
            return
        cut_torn_line(path, _LINE_START)
        for where, row in read_json_lines(path):
            try:
                self._replies[row["request"]] = Reply(**{field.name: row[field.name] for field in fields(Reply)})
            except (KeyError, TypeError) as error:
                raise InputError(f"{where}: expected a teacher's reply, found none ({error!r})") from None

    def find(self, request: str) -> Reply | None:
        """Return the reply to a request, None where there is none yet."""
        return self._replies.get(request)

    def count_tokens(self) -> list[tuple[int, int]]:
        """Return how many tokens were read and written for each reply that is kept."""
        return [(reply.num_read, reply.num_written) for reply in self._replies.values()]

    def add(self, request: str, image: str, kind: str, reply: Reply) -> None:
        """Keep a reply; it is on the disk when this returns.

        Args:
            request: Its name.
            image: What it is about, for those who read the file.
            kind: Of what was asked for.
            reply: What came.
        """
        line = {"request": request, "image": image, "kind": kind, **asdict(reply)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._replies[request] = reply
