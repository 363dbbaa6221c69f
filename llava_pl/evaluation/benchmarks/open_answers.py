"""Tests that a judge elsewhere scores: MM-Vet (Yu et al. 2023, arXiv:2308.02490), LLaVA-Bench (Liu et al. 2023)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_pl.evaluation.question_file import read_question_file
from llava_pl.evaluation.scores import Asked, Scores, judge, score_means
from llava_pl.evaluation.task import Task
from llava_pl.types import Question


class LlavaBench(Task):
    """Pictures in the wild: conversation, description and reasoning, in sentences.

    Args:
        questions: The question file (questions.jsonl).
        image_folder: Where the pictures lie.
    """

    name = "llava-bench"

    def __init__(self, *, questions: str | Path, image_folder: str | Path | None = None) -> None:
        self._file = Path(questions)
        self.image_folder = None if image_folder is None else Path(image_folder)

    def questions(self) -> Sequence[Question]:
        """Return the questions."""
        return [question for question, _ in self._questions]

    @cached_property
    def _questions(self) -> list[tuple[Question, Mapping[str, Any]]]:
        return read_question_file(self._file)

    def score(self, asked: Asked) -> Scores:
        """Return no score: what the answers are worth is said by a judge."""
        return score_means(judge(asked, lambda text, _: text, None))


class MmVet(LlavaBench):
    """Questions that need several skills at once, in sentences.

    Args:
        questions: The original's question file (llava-mm-vet.jsonl).
        image_folder: Where the pictures lie.
    """

    name = "mm-vet"

    def write_submission(self, path: Path, asked: Asked) -> None:
        """Write what MM-Vet's own evaluation reads: texts by ``v1_`` and the identifier."""
        lines = {question.id: line for question, line in self._questions}
        answers = {f"v1_{lines[question.id]['question_id']}": row["text"] for question, row in asked if row is not None}
        path.write_text(json.dumps(answers, indent=2))
