"""Answer files: one JSON object a line, as the original's scripts read and write them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from llava_pl.types import InputError


class AnswerRow(TypedDict, total=False):
    """One line of an answer file; ``prompt`` may be absent, further fields are ignored.

    ``scores``, the log-likelihood of each choice, is there where these decided what the answer is.
    """

    question_id: str
    prompt: str
    text: str
    scores: dict[str, float]


def read_answers(path: Path | str) -> list[AnswerRow]:
    """Return the rows of an answer file, checked; blank lines are skipped.

    Raises:
        InputError: The file cannot be read, or a line is wrong; names file, line and field.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: answer file cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            where = f"{path}: line {number} column {error.colno}"
            raise InputError(f"{where}: not valid JSON: {error.msg}; expected one object a line") from None
        rows.append(_validate_row(row, f"{path}: line {number}"))
    return rows


def write_answers(path: Path | str, rows: Iterable[AnswerRow]) -> None:
    """Write an answer file that the original's scripts read too: ``question_id``, ``prompt``, ``text`` a line.

    Where there are ``scores`` they come last.

    It gets its name only when complete, so that a killed run leaves no half file to be scored.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            for row in rows:
                fields = AnswerRow(question_id=row["question_id"], prompt=row["prompt"], text=row["text"])
                if "scores" in row:
                    fields["scores"] = row["scores"]
                file.write(json.dumps(fields) + "\n")
        part.replace(path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def iterate_answers(answers: Path | str | Iterable[Mapping[str, Any]] | Mapping[str, str]) -> Iterator[AnswerRow]:
    """Yield the checked rows of a file, of an iterable of rows, or of a mapping from question id to text.

    Raises:
        InputError: A row is wrong; names where it stands and the field.
    """
    if isinstance(answers, Path | str):
        yield from read_answers(answers)
    elif isinstance(answers, Mapping):
        for question_id, text in answers.items():
            yield _validate_row({"question_id": question_id, "text": text}, f"answers: entry {question_id!r}")
    else:
        for index, row in enumerate(answers):
            yield _validate_row(row, f"answers: row {index}")


def _validate_row(row: object, where: str) -> AnswerRow:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object, found {type(row).__name__}")
    for field in ("question_id", "text", "prompt"):
        if field not in row and field != "prompt":
            raise InputError(f"{where}: field {field!r}: expected a string, found nothing")
        if field in row and not isinstance(row[field], str):
            raise InputError(f"{where}: field {field!r}: expected a string, found {row[field]!r}")
    checked = AnswerRow(question_id=row["question_id"], text=row["text"])
    if "prompt" in row:
        checked["prompt"] = row["prompt"]
    return checked
