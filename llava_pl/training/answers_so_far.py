"""Answers of an evaluation while it runs: kept on disk as they come, so that one that was stopped goes on.

In: the answers to a batch. Out: those of an earlier attempt in the same folder, on whatever number of ranks.

A file for each rank: what the answers depend on in its first line, then one answer a line. A line that a kill cut off
is left out. The files are gone once the evaluation has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_pl.whole_file import whole_file

Answer = tuple[str, dict[str, float] | None]
"""A text, and the log-likelihoods that chose it, if these did."""


class AnswersSoFar:
    """The answers of one rank to one set of questions.

    Args:
        folder: Shared by the ranks.
        name: Of the set.
        made_with: What the answers depend on, as JSON can hold it.
        rank: This one.
    """

    def __init__(self, folder: Path, name: str, made_with: Mapping[str, Any], rank: int) -> None:
        self._folder, self._name = folder, name
        self._head = json.dumps(made_with, sort_keys=True)
        self._path = folder / f".{name}.so-far.{rank}.jsonl"

    def read(self) -> dict[int, Answer]:
        """Return the answers of all ranks by the place of their question, but for those made with anything else."""
        found: dict[int, Answer] = {}
        for path in sorted(self._folder.glob(f".{self._name}.so-far.*.jsonl")):
            head, *lines = path.read_text(encoding="utf-8").split("\n")
            if head != self._head:
                continue
            for line in lines:
                with suppress(json.JSONDecodeError):
                    place, text, scores = json.loads(line)
                    found[place] = (text, scores)
        return found

    def begin(self, answers: Mapping[int, Answer]) -> None:
        """Start a file of this rank with the answers that there are."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self._path) as part:
            part.write_text(f"{self._head}\n" + "".join(map(_line, answers, answers.values())), encoding="utf-8")

    def add(self, answers: Mapping[int, Answer]) -> None:
        """Add the answers to a batch."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, answers, answers.values())))

    def end(self) -> None:
        """Leave nothing behind: the answers are in their own file now."""
        for path in self._folder.glob(f".{self._name}.so-far.*.jsonl"):
            path.unlink(missing_ok=True)


def _line(place: int, answer: Answer) -> str:
    return json.dumps([place, *answer]) + "\n"
