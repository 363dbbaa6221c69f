"""VQAv2 and VizWiz, whose test answers are kept by a server: what it is sent, and the score where answers are at hand.

Goyal et al. 2017 (arXiv:1612.00837), Gurari et al. 2018 (arXiv:1802.08218).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json
from llava_pl.evaluation.file_task import FileTask, Line
from llava_pl.evaluation.scores import Asked, Scores, judge, score_means
from llava_pl.evaluation.vqa_answers import agree_with_people, read_answer, tidy_answer
from llava_pl.types import InputError, Question


class VqaV2(FileTask):
    """Short answers to questions about MS COCO's pictures.

    Args:
        questions: The original's question file (llava_vqav2_mscoco_test-dev2015.jsonl).
        image_folder: Where the pictures (test2015) lie.
        annotations: VQA's own file of what people answered, where that is known (v2_mscoco_val2014_annotations.json).
    """

    name = "vqav2"
    _key = "question_id"

    def __init__(
        self,
        *,
        questions: str | Path,
        image_folder: str | Path | None = None,
        annotations: str | Path | None = None,
    ) -> None:
        super().__init__(questions=questions, image_folder=image_folder)
        self._annotations = None if annotations is None else Path(annotations)

    def fill(self, lines: Sequence[tuple[Question, Line]]) -> Sequence[Question]:
        """Return the questions, with what people answered where that is known."""
        if self._annotations is None:
            return super().fill(lines)
        entries = _read_annotations(self._annotations, self._key)
        filled = []
        for question, line in lines:
            if (entry := entries.get(str(line.get(self._key)))) is None:
                raise InputError(
                    f"{self._file}: question {question.id!r}: {self._annotations} has no entry with its {self._key}; "
                    "take both files of one split"
                )
            given = tuple(str(answer["answer"]) for answer in entry["answers"])
            kind = (str(entry["answer_type"]),) if entry.get("answer_type") else ()
            filled.append(question._replace(references=given, categories=kind))
        return filled

    def score(self, asked: Asked) -> Scores:
        """Return the mean agreement with people of all answers and of each kind; no score where people are unknown."""
        return score_means(judge(asked, read_answer, None if self._annotations is None else agree_with_people))

    def write_submission(self, path: Path, asked: Asked) -> None:
        """Write what the server is sent: a list of question and tidied answer, "" where there is none.

        VQAv2's takes all questions of test2015 alone: give their file as `questions`, also for answers to test-dev.
        """
        path.write_text(json.dumps([self._entry(self.line_of(q), row["text"] if row else "") for q, row in asked]))

    def _entry(self, line: Line, text: str) -> dict[str, object]:
        return {"question_id": line["question_id"], "answer": tidy_answer(text)}


class VizWiz(VqaV2):
    """Questions of blind people about their own photographs, some of which cannot be answered.

    Args:
        questions: The original's question file (llava_test.jsonl).
        image_folder: Where the pictures lie.
        annotations: VizWiz's own file of what people answered, where that is known (val.json).
    """

    name = "vizwiz"
    _key = "image"

    def _entry(self, line: Line, text: str) -> dict[str, object]:
        return {"image": line.get("image"), "answer": tidy_answer(text)}


def _read_annotations(path: Path, key: str) -> dict[str, Mapping[str, Any]]:
    content = read_json(path)
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list of annotations, or an object with one")
    found = {}
    for place, entry in enumerate(entries):
        answers = entry.get("answers") if isinstance(entry, dict) else None
        if (
            not isinstance(answers, list)
            or not answers
            or not all(isinstance(a, dict) and "answer" in a for a in answers)
        ):
            raise InputError(f"{path}: entry {place}: field 'answers': expected a list of objects with an 'answer'")
        found[str(entry.get(key))] = entry
    return found
