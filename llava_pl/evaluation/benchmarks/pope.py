"""POPE: whether a model says that it sees what is not there (Li et al. 2023, arXiv:2305.10355).

Numbers are those of the original's ``eval_pope.py``, which has three groups of questions about MS COCO's pictures: of
the things that are asked for and absent, "random" draws any, "popular" the most frequent, and "adversarial" those that
often stand beside what is there.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

from llava_pl.data.json_files import read_json_lines
from llava_pl.evaluation.file_task import AnnotatedTask, Line
from llava_pl.evaluation.intervals import add_up, ratio_interval
from llava_pl.evaluation.question_file import plain_text
from llava_pl.evaluation.scores import Asked, ScoreRow, Scores, in_percent, judge
from llava_pl.types import InputError, Question

GROUPS = ("random", "popular", "adversarial")
METRICS = ("accuracy", "precision", "recall", "f1", "yes_share")


class Pope(AnnotatedTask):
    """Yes or no: is there a thing of this kind in the picture?

    Args:
        questions: The original's question file (llava_pope_test.jsonl), whose lines have a category.
        annotations: Folder with POPE's own coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json.
        image_folder: Where MS COCO's val2014 pictures lie.
    """

    name = "pope"

    def fill(self, lines: Sequence[tuple[Question, Line]]) -> Sequence[Question]:
        """Return the questions with their labels."""
        # LLaVA: labels belong to the questions of a category by their order; here picture and words must agree, too.
        labels = {group: iter(list(read_json_lines(self._annotations / f"coco_pope_{group}.json"))) for group in GROUPS}
        questions = []
        for question, line in lines:
            group = line.get("category")
            if group not in GROUPS:
                raise InputError(
                    f"{self._file}: question {question.id!r}: field 'category': expected one of {', '.join(GROUPS)}, "
                    f"found {group!r}"
                )
            where, label = next(labels[group], ("", {}))
            if label.get("image") != question.image or not plain_text(question).startswith(str(label.get("text"))):
                raise InputError(
                    f"{self._file}: question {question.id!r}: expected the next one of coco_pope_{group}.json "
                    f"({where or 'which has no more'}); take both files from the same release"
                )
            if label.get("label") not in ("yes", "no"):
                raise InputError(f"{where}: field 'label': expected yes or no, found {label.get('label')!r}")
            questions.append(question._replace(categories=(group,), references=(label["label"],)))
        return questions

    def score(self, asked: Asked) -> Scores:
        """Return accuracy, precision, recall, F1 and the share of yes, of all questions and of each group."""
        verdicts = judge(asked, lambda text, _: read_yes_no(text))
        rows = []
        for group in (None, *GROUPS):
            own = [
                (question.references[0], verdict.reading, verdict.cluster)
                for (question, _), verdict in zip(asked, verdicts, strict=True)
                if group is None or group in verdict.groups
            ]
            rows += _rows("" if group is None else f"/{group}", own)
        return Scores(tuple(rows), verdicts)


def read_yes_no(text: str) -> Literal["yes", "no"]:
    """Return what a text says, by the original's rule: no if its first sentence has such a word, else yes.

    >>> read_yes_no("There is no dog, but a cat."), read_yes_no("Yes. Not far away."), read_yes_no("None")
    ('no', 'yes', 'yes')
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _rows(ending: str, answers: Sequence[tuple[str, str | None, Hashable]]) -> list[ScoreRow]:
    """Return the scores of answers, each a label, a reading (None where it is missing) and a picture."""
    pictures = [picture for _, _, picture in answers]
    rows = []
    for metric in METRICS:
        counts = [_count(metric, label, reading) for label, reading, _ in answers]
        above, below = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        interval = ratio_interval(add_up(counts, pictures))
        value = 100 * above / below if below else None
        rows.append(ScoreRow(metric + ending, value, interval and in_percent(interval), len(answers)))
    return rows


def _count(metric: str, label: str, reading: str | None) -> tuple[int, int]:
    """Return what an answer adds to both parts of a rate."""
    said, there = reading == "yes", label == "yes"
    if metric == "accuracy":
        return reading == label, 1
    if metric == "precision":
        return said and there, said
    if metric == "recall":
        return said and there, there
    if metric == "f1":
        return 2 * (said and there), said + there
    return said, 1
