"""Where questions come from: the side of a task that a data module sees. ``evaluation/task.py`` is the other one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from llava_pl.types import Question


class QuestionSource(ABC):
    """Questions to ask.

    Attributes:
        name: What they are called in logs and in the names of files: lower case letters, digits and dashes.
        image_folder: Where their pictures lie; None for the image folder of the data module.
    """

    name: str
    image_folder: Path | None = None

    @abstractmethod
    def questions(self) -> Sequence[Question]:
        """Return the questions in the order of their set, read from their files.

        Raises:
            InputError: A file is missing or wrong.
        """


class GivenQuestions(QuestionSource):
    """Questions that are at hand.

    Args:
        questions: In order.
        name: What they are called.
    """

    def __init__(self, questions: Sequence[Question], name: str = "given") -> None:
        self.name = name
        self._questions = questions

    def questions(self) -> Sequence[Question]:
        """Return them."""
        return self._questions
