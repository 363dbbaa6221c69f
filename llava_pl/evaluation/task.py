"""What a benchmark is: what it asks, and what answers to it are worth.

A task is one file: a class of this kind, which `data.tasks` of a configuration and ``llava-pl eval`` take by its name
or path. docs/tasks.md shows one from outside the package.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_pl.data.question_source import QuestionSource
from llava_pl.evaluation.answers import AnswerRow
from llava_pl.evaluation.report import ReportTable
from llava_pl.evaluation.scores import Asked, Scores
from llava_pl.types import IMAGE_SLOT, InputError, Question


class Task(QuestionSource):
    """A benchmark: questions in, a table out.

    The prompt is in the questions, the template that of the model. `score` reads the answers and knows the metric.
    """

    @property
    def title(self) -> str:
        """What a report is called."""
        return self.name

    @abstractmethod
    def score(self, asked: Asked) -> Scores:
        """Return the table of some of the questions.

        Args:
            asked: In the order of the set; a run that was told to stop early asks the first of them.
        """

    def details(self, sets: Mapping[str, Asked]) -> Sequence[ReportTable]:
        """Return further tables about sets of answers, for their report.

        Args:
            sets: As for `score`, by what they are called.
        """
        del sets
        return ()

    def write_submission(self, path: Path, asked: Asked) -> None:
        """Write what the server or the official script of the benchmark reads.

        Args:
            path: Where to.
            asked: As for `score`.

        Raises:
            InputError: There is no such form of it.
        """
        del path, asked
        raise InputError(f"{self.name} has no file of its own; its answers are the answer file")

    def as_written(self, question: Question, row: AnswerRow) -> dict[str, Any]:
        """Return an answer as it stands in an answer file.

        Args:
            question: What was asked.
            row: What was answered, and what became of it.
        """
        del question
        return {**row}

    def settings(self) -> dict[str, object]:
        """Return what an answer depends on beside the model, as it stands in the header of an answer file."""
        return {}


def match_answers(questions: Sequence[Question], rows: Sequence[AnswerRow], source: str) -> Asked:
    """Return each question with its answer; of rows that answer one question the last.

    Identifiers decide, and prompts where there are several of one identifier, among questions or answers.

    Args:
        questions: Of a task.
        rows: Of an answer file; those of other questions are ignored, so that one file scores several splits.
        source: Name of the file, for messages.

    Raises:
        InputError: No answer belongs to any question, or two questions cannot be told apart.
    """
    keys = [(question.id, _words(question.prompt)) for question in questions]
    if twice := next((name for (name, _), number in Counter(keys).items() if number > 1), None):
        raise InputError(
            f"{source}: two questions have identifier {twice!r} and one prompt; give each its own identifier"
        )
    has_own_ids = len({name for name, _ in keys}) == len(keys)
    found: dict[str, dict[str, AnswerRow]] = {}
    for row in rows:
        found.setdefault(row["question_id"], {})[_words(row.get("prompt", ""))] = row
    asked: list[tuple[Question, AnswerRow | None]] = []
    for question, (name, prompt) in zip(questions, keys, strict=True):
        answers = found.get(name, {})
        only = next(iter(answers.values())) if has_own_ids and len(answers) == 1 else None
        asked.append((question, only or answers.get(prompt)))
    if rows and questions and not any(row is not None for _, row in asked):
        raise InputError(
            f"{source}: none of its {len(rows)} answers is to one of the {len(questions)} questions; expected answers "
            "to these"
        )
    return asked


def describe_unused(asked: Asked, rows: Sequence[AnswerRow]) -> list[str]:
    """Return in words which answers of a file are not among those that are scored."""
    used = {id(row) for _, row in asked}
    answered = {(row["question_id"], _words(row.get("prompt", ""))) for _, row in asked if row is not None}
    unused = [(row["question_id"], _words(row.get("prompt", ""))) for row in rows if id(row) not in used]
    replaced = sum(key in answered for key in unused)
    found = []
    if strangers := len(unused) - replaced:
        found.append(f"{strangers:,} of its answers are to other questions than those that are scored")
    if replaced:
        found.append(f"{replaced:,} of its answers were given again further down; the last ones count")
    return found


def _words(prompt: str) -> str:
    """Return a prompt as it is compared: other projects leave out the image slot."""
    return " ".join(prompt.replace(IMAGE_SLOT, " ").split())
