"""GQA: compositional questions about real pictures (Hudson and Manning 2019, arXiv:1902.09506)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from llava_pl.data.json_files import read_json_object
from llava_pl.evaluation.file_task import AnnotatedTask, Line
from llava_pl.evaluation.scores import Asked, Scores, judge, score_means
from llava_pl.types import InputError, Question

OPEN = "query"
"""The structural type whose answer is any word; those of the others are yes, no or one of two things."""


class Gqa(AnnotatedTask):
    """Questions whose answer is a word or two.

    Args:
        questions: The original's question file (llava_gqa_testdev_balanced.jsonl).
        annotations: GQA's own questions with their answers (testdev_balanced_questions.json).
        image_folder: Where the pictures lie.
    """

    name = "gqa"

    def fill(self, lines: Sequence[tuple[Question, Line]]) -> Sequence[Question]:
        """Return the questions with their answers."""
        entries = read_json_object(self._annotations)
        filled = []
        for question, _ in lines:
            entry = entries.get(question.id)
            if not isinstance(entry, dict) or not isinstance(entry.get("answer"), str):
                raise InputError(
                    f"{self._file}: question {question.id!r}: expected one with an 'answer' in {self._annotations}"
                )
            types = entry.get("types") or {}
            if not isinstance(types, dict):
                raise InputError(f"{self._annotations}: entry {question.id!r}: field 'types': expected an object")
            structural = types.get("structural")
            groups = (() if structural is None else ("open" if structural == OPEN else "binary", structural)) + (
                (types["semantic"],) if types.get("semantic") else ()
            )
            filled.append(question._replace(references=(entry["answer"],), categories=groups))
        return filled

    def score(self, asked: Asked) -> Scores:
        """Return accuracy of all questions, of binary and open ones, and of each type."""
        return score_means(judge(asked, lambda text, _: read_answer(text)), groups=("binary", "open"))

    def write_submission(self, path: Path, asked: Asked) -> None:
        """Write what GQA's own ``eval.py`` reads; it refuses a file that leaves out a question."""
        entries = [
            {"questionId": self.line_of(question)["question_id"], "prediction": read_answer(row["text"] if row else "")}
            for question, row in asked
        ]
        path.write_text(json.dumps(entries))


def read_answer(text: str) -> str:
    """Return the answer in small letters without full stops at its end, as the original compares it.

    >>> read_answer("Yes.")
    'yes'
    """
    return text.rstrip(".").lower()
