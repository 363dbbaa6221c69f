"""SEED-Bench: multiple-choice questions about pictures and frames of films (Li et al. 2023, arXiv:2307.16125)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json_object
from llava_pl.evaluation.file_task import AnnotatedTask, Line
from llava_pl.evaluation.parsing import LetterParser, read_letter
from llava_pl.evaluation.scores import Asked, Scores, judge, score_means
from llava_pl.types import InputError, Question

LETTERS = "ABCD"


class SeedBench(AnnotatedTask):
    """Four choices each, of twelve kinds.

    Args:
        questions: The original's question file (llava-seed-bench.jsonl).
        annotations: SEED-Bench.json, with the answers and the kinds.
        image_folder: Folder that the file names of the questions start from.
        parser: How letters are read off answers: "exact" takes an answer that is a letter and nothing else, as the
            original; "strict" and "lenient" read more.
    """

    name = "seed-bench"

    def __init__(
        self,
        *,
        questions: str | Path,
        annotations: str | Path,
        image_folder: str | Path | None = None,
        parser: LetterParser = "exact",
    ) -> None:
        super().__init__(questions=questions, annotations=annotations, image_folder=image_folder)
        self._parser: LetterParser = parser

    def fill(self, lines: Sequence[tuple[Question, Line]]) -> Sequence[Question]:
        """Return the questions with their answers."""
        kinds, entries = self._annotated
        filled = []
        for question, _ in lines:
            entry = entries.get(question.id)
            if entry is None or entry.get("answer") not in tuple(LETTERS):
                raise InputError(
                    f"{self._file}: question {question.id!r}: expected one with an answer from A to D in "
                    f"{self._annotations}"
                )
            choices = tuple(str(entry.get(f"choice_{letter.lower()}", "")) for letter in LETTERS)
            kind = kinds.get(str(entry.get("question_type_id")))
            groups = tuple(str(group) for group in (entry.get("data_type"), kind) if group)
            answer = LETTERS.index(entry["answer"])
            right = (entry["answer"],)
            filled.append(question._replace(choices=choices, answer=answer, categories=groups, references=right))
        return filled

    @cached_property
    def _annotated(self) -> tuple[Mapping[str, str], Mapping[str, Mapping[str, Any]]]:
        """The names of the kinds by their numbers, and the questions by their identifiers."""
        content = read_json_object(self._annotations)
        kinds, rows = content.get("question_type") or {}, content.get("questions")
        if not isinstance(kinds, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(
                f"{self._annotations}: expected 'questions', a list of objects, and an object 'question_type'"
            )
        if not all(isinstance(number, int | str) for number in kinds.values()):
            raise InputError(f"{self._annotations}: field 'question_type': expected a number for each kind")
        entries = {str(row.get("question_id")): row for row in rows}
        return {str(number): name for name, number in kinds.items()}, entries

    def score(self, asked: Asked) -> Scores:
        """Return accuracy of all questions, of pictures and films, and of each kind."""
        verdicts = judge(asked, lambda text, question: read_letter(text, question.choices, parser=self._parser))
        return score_means(verdicts, groups=("image", "video"))

    def write_submission(self, path: Path, asked: Asked) -> None:
        """Write what the leader board is sent: a line for each question that SEED-Bench.json has, in its order."""
        texts = {question.id: row["text"] for question, row in asked if row is not None}
        with path.open("w", encoding="utf-8") as file:
            for name, entry in self._annotated[1].items():
                line = {"question_id": entry["question_id"], "prediction": texts.get(name, "")}
                file.write(json.dumps(line) + "\n")
