"""MME: two yes-or-no questions about each picture, in fourteen subtasks (Fu et al. 2023, arXiv:2306.13394).

A subtask scores the percentage of right answers plus that of pictures with both answers right, so at most 200;
perception is the sum of ten subtasks, cognition that of four. Numbers are those of MME's own ``calculation.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llava_pl.evaluation.file_task import AnnotatedTask, Line
from llava_pl.evaluation.intervals import OF_SCORES, draw_sums, middle_of, sum_interval
from llava_pl.evaluation.question_file import plain_text
from llava_pl.evaluation.scores import Asked, ScoreRow, Scores, Verdict, judge, mean_row
from llava_pl.types import InputError, Question

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
REQUESTS = ("Answer the question using a single word or phrase.", "Please answer yes or no.")


class Mme(AnnotatedTask):
    """Yes-or-no questions in pairs, of perception and cognition.

    Args:
        questions: The original's question file (llava_mme.jsonl), whose lines have a category.
        annotations: Folder MME_Benchmark_release_version: the pictures, and beside them a text file for each.
        image_folder: Where the pictures lie, by default the same folder.
    """

    name = "mme"
    title = "MME, in points: 200 for a subtask, 2,000 for perception, 800 for cognition"

    def __init__(
        self, *, questions: str | Path, annotations: str | Path, image_folder: str | Path | None = None
    ) -> None:
        image_folder = annotations if image_folder is None else image_folder
        super().__init__(questions=questions, annotations=annotations, image_folder=image_folder)

    def fill(self, lines: Sequence[tuple[Question, Line]]) -> Sequence[Question]:
        """Return the questions with their labels."""
        labels: dict[str, Mapping[str, str]] = {}
        questions = []
        for question, line in lines:
            group = line.get("category")
            if group not in PERCEPTION + COGNITION:
                raise InputError(
                    f"{self._file}: question {question.id!r}: field 'category': expected a subtask, found {group!r}"
                )
            if question.id not in labels:
                labels[question.id] = _read_labels(self._annotations, question.id)
            label = labels[question.id].get(_bare(plain_text(question)))
            if label not in ("yes", "no"):
                raise InputError(
                    f"{self._file}: question {question.id!r}: expected one that {self._annotations} answers with Yes "
                    f"or No, found {plain_text(question)!r}"
                )
            questions.append(question._replace(categories=(group,), references=(label,)))
        return questions

    def score(self, asked: Asked) -> Scores:
        """Return the sums of perception and cognition, and of each subtask score, accuracy and accuracy+."""
        verdicts = judge(asked, lambda text, _: read_yes_no(text))
        answers: dict[str, dict[str, list[Verdict]]] = {}
        for (question, _), verdict in zip(asked, verdicts, strict=True):
            answers.setdefault(question.categories[0], {}).setdefault(question.id, []).append(verdict)
        sums, rows = [], []
        for total, groups in (("perception", PERCEPTION), ("cognition", COGNITION)):
            parts, number = [], 0
            for group in groups:
                if group not in answers:
                    continue
                pairs = answers[group].values()
                pictures = [_outcome(pair) for pair in pairs]
                value, interval = float(_score(np.sum(pictures, axis=0)[None])[0]), middle_of(_draw(pictures))
                rows.append(ScoreRow(f"{total}/{group}", value, interval, len(pictures)))
                rows.append(mean_row(f"accuracy/{group}", [verdict for pair in pairs for verdict in pair]))
                rows.append(mean_row(f"accuracy_plus/{group}", [_worst(pair) for pair in pairs]))
                parts.append((value, interval))
                number += len(pictures)
            points = sum(value for value, _ in parts) if parts else None
            sums.append(ScoreRow(total, points, sum_interval(parts) if parts else None, number))
        return Scores((*sums, *rows), verdicts)


def read_yes_no(text: str) -> Literal["yes", "no"] | None:
    """Return what a text says, by MME's own rule: what its first four characters hold, None for neither.

    >>> read_yes_no("Yes, it is."), read_yes_no("no"), read_yes_no("It is not")
    ('yes', 'no', None)
    """
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _outcome(pair: Sequence[Verdict]) -> tuple[float, ...]:
    """Return what the answers about a picture add to a subtask: right ones, all, whether all are right, the picture."""
    rights = [verdict.credit == 1 for verdict in pair]
    return sum(rights), len(rights), all(rights), 1


def _draw(pictures: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
    """Return the scores of pictures drawn anew, to which some are added with both answers right, or both wrong."""
    return _score(draw_sums(pictures, {(2 * right, 2, right, 1): number for right, number in OF_SCORES.items()}))


def _score(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of sets of pictures ``(sets, numbers of an outcome)``: accuracy and accuracy+ in percent."""
    right, answers, both, pictures = sums.T
    scores: NDArray[np.float64] = 100 * (right / answers + both / pictures)
    return scores


def _worst(pair: Sequence[Verdict]) -> Verdict:
    return min(pair, key=lambda verdict: verdict.credit or 0.0)


def _bare(text: str) -> str:
    """Return a question without what asks for the form of its answer, and with single spaces."""
    for request in REQUESTS:
        text = text.replace(request, "")
    return " ".join(text.split())


def _read_labels(folder: Path, question_id: str) -> dict[str, str]:
    """Return the answers to the questions about a picture, "yes" or "no", by question."""
    # LLaVA: its file names pictures SUBTASK/NAME, or SUBTASK/images/NAME, and the texts are one folder higher.
    group, *_, picture = question_id.split("/")
    name = f"{picture.partition('.')[0]}.txt"
    places = (folder / group / name, folder / group / "questions_answers_YN" / name)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"{places[0]}: no such file; expected MME's questions and answers for {question_id}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text ({error.reason} at byte {error.start})") from error
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    if any(len(line) != 2 for line in lines):
        raise InputError(f"{path}: expected lines of a question, a tab and Yes or No")
    return {_bare(question): answer.strip().lower() for question, answer in lines}
