"""Tasks whose questions are lines of a file in the original's form, and whose answers its scripts read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_pl.evaluation.answers import AnswerRow
from llava_pl.evaluation.question_file import read_question_file
from llava_pl.evaluation.task import Task
from llava_pl.types import Question

Line = Mapping[str, Any]
"""A line of a question file."""


class FileTask(Task):
    """A benchmark with a question file in the original's form.

    Args:
        questions: The original's question file.
        image_folder: Where the pictures lie.
    """

    def __init__(self, *, questions: str | Path, image_folder: str | Path | None = None) -> None:
        self._file = Path(questions)
        self.image_folder = None if image_folder is None else Path(image_folder)

    def fill(self, lines: Sequence[tuple[Question, Line]]) -> Sequence[Question]:
        """Return the questions of a file with what is known of them beside it, such as the right answers.

        Args:
            lines: Each question with its whole line.

        Raises:
            InputError: A file is wrong, or does not belong to the questions.
        """
        return [question for question, _ in lines]

    def questions(self) -> Sequence[Question]:
        """Return the questions with what is known of them."""
        return self._questions

    @cached_property
    def _lines(self) -> list[tuple[Question, Line]]:
        return read_question_file(self._file)

    @cached_property
    def _questions(self) -> Sequence[Question]:
        return self.fill(self._lines)

    @cached_property
    def _line_of(self) -> dict[Question, Line]:
        return {question: line for question, (_, line) in zip(self._questions, self._lines, strict=True)}

    def line_of(self, question: Question) -> Line:
        """Return the line that a question is from."""
        return self._line_of[question]

    def as_written(self, question: Question, row: AnswerRow) -> dict[str, Any]:
        """Return an answer as the original's scripts look for it: by the identifier and the words of the file."""
        line = self.line_of(question)
        named = {"question_id": line["question_id"], "prompt": line["text"]}
        return {**row, **named, "answer_id": question.id}


class AnnotatedTask(FileTask):
    """A benchmark with a question file, whose right answers are known from elsewhere.

    Args:
        questions: The original's question file.
        annotations: The benchmark's own file or folder with the right answers.
        image_folder: Where the pictures lie.
    """

    def __init__(
        self, *, questions: str | Path, annotations: str | Path, image_folder: str | Path | None = None
    ) -> None:
        super().__init__(questions=questions, image_folder=image_folder)
        self._annotations = Path(annotations)
