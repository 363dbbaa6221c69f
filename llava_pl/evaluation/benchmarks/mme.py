"""MME: two yes-or-no questions about each picture, in fourteen subtasks (Fu et al. 2023, arXiv:2306.13394).

A subtask scores the percentage of right answers plus that of pictures with both answers right, so at most 200;
perception is the sum of ten subtasks, cognition that of four. Numbers are those of MME's own ``calculation.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llava_pl.evaluation.intervals import draw_sums, middle_of, unseen_interval
from llava_pl.evaluation.question_file import plain_text, read_question_file
from llava_pl.evaluation.scores import Asked, ScoreRow, Scores, Verdict, judge, mean_row
from llava_pl.evaluation.task import Task
from llava_pl.types import InputError, Question

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
MAX_SCORE = 200
"""Of a subtask."""
REQUESTS = ("Answer the question using a single word or phrase.", "Please answer yes or no.")


class Mme(Task):
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
        self._file, self._annotations = Path(questions), Path(annotations)
        self.image_folder = Path(annotations if image_folder is None else image_folder)

    def questions(self) -> Sequence[Question]:
        """Return the questions with their labels."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        labels: dict[str, Mapping[str, str]] = {}
        questions = []
        for question, row in read_question_file(self._file):
            group = row.get("category")
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
        return tuple(questions)

    def score(self, asked: Asked) -> Scores:
        """Return the sums of perception and cognition, and of each subtask score, accuracy and accuracy+."""
        verdicts = judge(asked, lambda text, _: read_yes_no(text), name=_name)
        answers: dict[str, dict[str, list[Verdict]]] = {}
        for (question, _), verdict in zip(asked, verdicts, strict=True):
            answers.setdefault(question.categories[0], {}).setdefault(question.id, []).append(verdict)
        sums, rows = [], []
        for total, groups in (("perception", PERCEPTION), ("cognition", COGNITION)):
            drawn, values, number = np.zeros(1), [], 0
            for place, group in enumerate(groups):
                if group not in answers:
                    continue
                pictures = [_outcome(pair) for pair in answers[group].values()]
                draws = _score(draw_sums(pictures, seed=place))  # subtasks are drawn apart from each other
                value = float(_score(np.sum(pictures, axis=0)[None])[0])
                alike = len(set(pictures)) == 1
                interval = unseen_interval(value, len(pictures), (0, MAX_SCORE)) if alike else middle_of(draws)
                rows.append(ScoreRow(f"{total}/{group}", value, interval, len(pictures)))
                pairs = answers[group].values()
                rows.append(mean_row(f"accuracy/{group}", [verdict for pair in pairs for verdict in pair]))
                rows.append(mean_row(f"accuracy_plus/{group}", [_worst(pair) for pair in pairs]))
                drawn, number = drawn + draws, number + len(pictures)
                values.append(value)
            if values:
                sums.append(ScoreRow(total, sum(values), middle_of(drawn), number))
            else:
                sums.append(ScoreRow(total, None, None, 0))
        return Scores((*sums, *rows), verdicts)


def read_yes_no(text: str) -> Literal["yes", "no"] | None:
    """Return what a text says, by MME's own rule: what its first four characters hold, None for neither.

    >>> read_yes_no("Yes, it is."), read_yes_no("no"), read_yes_no("It is not")
    ('yes', 'no', None)
    """
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _name(question: Question) -> str:
    return f"{question.id}: {_bare(plain_text(question))}"  # the two questions about a picture have one identifier


def _outcome(pair: Sequence[Verdict]) -> tuple[float, ...]:
    """Return what the answers about a picture add to a subtask: right ones, all, whether all are right, the picture."""
    rights = [verdict.credit == 1 for verdict in pair]
    return sum(rights), len(rights), all(rights), 1


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
    group, _, picture = question_id.rpartition("/")
    name = f"{Path(picture).stem}.txt"
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
