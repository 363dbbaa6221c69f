"""Answer files: one JSON object a line, as the original's scripts read and write them, and ScienceQA's result files.

In: a path, or rows. Out: checked rows; what they were made with (`find_header`) travels in the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from llava_pl.data.json_files import read_json_lines, read_json_object
from llava_pl.data.scienceqa import OPTION_LETTERS
from llava_pl.types import InputError
from llava_pl.whole_file import whole_file


class AnswerRow(TypedDict, total=False):
    """One line of an answer file; fields that are not named here are ignored.

    Args:
        question_id: Of the question.
        prompt: What was asked; may be absent.
        text: What was answered.
        scores: The log-likelihood of each choice, where these decided what the answer is.
        read: What the text says, where the answer was scored.
        credit: What that earned, 0 to 1, where the answer was scored.
        image: The picture that the question is about, where the answer was scored.
        index: The option that was read off the answer, -1 for none; in a result file of ScienceQA's kind.
        model_id: Who answered; in files of a teacher and of the original.
        metadata: How answers were made; in the first row of a file of this project.
    """

    question_id: str
    prompt: str
    text: str
    scores: dict[str, float]
    read: str | None
    credit: float
    image: str
    index: int
    model_id: str
    metadata: dict[str, Any]


def read_answers(path: Path | str) -> list[AnswerRow]:
    """Return the rows of an answer file, checked; blank lines are skipped.

    A name that ends in ``.json`` is that of a result file as ScienceQA's GPT-3 baseline and the original's scoring
    script write it: one object, with texts in ``outputs`` and option numbers in ``results``, or one of them.

    Raises:
        InputError: The file cannot be read, or a line or field is wrong; names file, line and field.
    """
    if Path(path).suffix == ".json":
        return _read_results(Path(path))
    return [_validate_row(row, where) for where, row in read_json_lines(path)]


def _read_results(path: Path) -> list[AnswerRow]:
    content = read_json_object(path)
    texts, indices = content.get("outputs"), content.get("results")
    if not isinstance(texts, dict) and not isinstance(indices, dict):
        raise InputError(
            f"{path}: expected an object with 'outputs' (texts by question id) or 'results' (option numbers), found "
            f"neither; give a file of answers, one JSON object a line, a name that ends in .jsonl"
        )
    texts, indices = (found if isinstance(found, dict) else {} for found in (texts, indices))
    rows = []
    for question_id in {**texts, **indices}:
        row: dict[str, Any] = {"question_id": question_id}
        if (index := indices.get(question_id)) is not None:
            row["index"] = index
        row["text"] = texts[question_id] if question_id in texts else _letter(index)
        rows.append(_validate_row(row, f"{path}: question {question_id!r}"))
    return rows


def _letter(index: object) -> str:
    is_option = isinstance(index, int) and 0 <= index < len(OPTION_LETTERS)
    return OPTION_LETTERS[index] if is_option else ""  # type: ignore[index]


def write_answers(path: Path | str, rows: Iterable[Mapping[str, Any]], header: Mapping[str, Any] | None = None) -> None:
    """Write an answer file; the header comes last in the first row.

    It gets its name only when complete, so that a killed run leaves no half file to be scored.

    Args:
        path: Where to.
        rows: In order, as `Task.as_written` returns them.
        header: How the answers were made, as JSON can hold it.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(Path(path)) as part, part.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            metadata = {"metadata": dict(header)} if header and number == 0 else {}
            file.write(json.dumps({**row, **metadata}) + "\n")


def find_header(rows: Iterable[AnswerRow]) -> dict[str, Any]:
    """Return how answers were made, as far as the file says: nothing is known of files of other projects."""
    return next((row["metadata"] for row in rows if row.get("metadata")), {})


def header_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return in words what two headers both say, and differently.

    >>> header_differences({"template": "vicuna_v1", "step": 1}, {"template": "plain"})
    ["template: 'vicuna_v1' and 'plain'"]
    """
    return [
        f"{key}: {first[key]!r} and {second[key]!r}" for key in first if key in second and first[key] != second[key]
    ]


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


def _with_plain_id(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row whose identifier is text, and is its own, as far as the original's scripts write others."""
    if type(row.get("question_id")) is int:  # of most tests but ScienceQA
        row = {**row, "question_id": str(row["question_id"])}
    if (
        row.get("round_id") and "question_id" in row
    ):  # of MMBench's further orders of the choices, from the second one on
        row = {**row, "question_id": f"{row['question_id']}#{row['round_id']}"}
    return row


def _validate_row(row: object, where: str) -> AnswerRow:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected an object, found {type(row).__name__}")
    row = _with_plain_id(row)
    checked = AnswerRow()
    for field in ("question_id", "text", "prompt", "image", "model_id"):
        if field in row and isinstance(row[field], str):
            checked[field] = row[field]
        elif field in row or field in ("question_id", "text"):
            found = repr(row[field]) if field in row else "nothing"
            raise InputError(f"{where}: field {field!r}: expected a string, found {found}")
    for field, kind in (("index", int), ("credit", float)):
        if field in row:
            if not isinstance(row[field], kind | int) or isinstance(row[field], bool):
                raise InputError(f"{where}: field {field!r}: expected a number, found {row[field]!r}")
            checked[field] = row[field]  # type: ignore[literal-required]
    if not 0 <= checked.get("credit", 0) <= 1:  # nor NaN
        raise InputError(f"{where}: field 'credit': expected a number from 0 to 1, found {checked['credit']}")
    if _is_header(row.get("metadata")):
        checked["metadata"] = dict(row["metadata"])
    return checked


def _is_header(metadata: object) -> bool:
    """Return whether this says how answers were made; other projects may keep other things there."""
    return isinstance(metadata, Mapping) and bool(metadata) and isinstance(metadata.get("answers", {}), Mapping)
