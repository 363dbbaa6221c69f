"""TextVQA: words in pictures, scored by agreement with ten people (Singh et al. 2019, arXiv:1904.08920)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llava_pl.data.json_files import read_json_object
from llava_pl.evaluation.file_task import AnnotatedTask, Line
from llava_pl.evaluation.question_file import plain_text
from llava_pl.evaluation.scores import Asked, Scores, judge, score_means
from llava_pl.evaluation.vqa_answers import agree_with_people, read_answer
from llava_pl.types import InputError, Question


class TextVqa(AnnotatedTask):
    """What is written there?

    Args:
        questions: The original's question file (llava_textvqa_val_v051_ocr.jsonl), with the words that a reader found.
        annotations: TextVQA_0.5.1_val.json.
        image_folder: Where the pictures (train_images) lie.
    """

    name = "textvqa"

    def fill(self, lines: Sequence[tuple[Question, Line]]) -> Sequence[Question]:
        """Return the questions with what people answered."""
        entries = read_json_object(self._annotations).get("data")
        if not isinstance(entries, list):
            raise InputError(f"{self._annotations}: field 'data': expected a list of annotated questions")
        answers: dict[tuple[str, str], tuple[str, ...]] = {}
        for place, entry in enumerate(entries):
            key, given = _read_annotation(entry, f"{self._annotations}: entry {place}")
            answers[key] = given
        questions = []
        for question, _ in lines:
            words = next((words for words in _candidates(question) if (question.id, words) in answers), None)
            if words is None:
                raise InputError(
                    f"{self._file}: question {question.id!r}: {self._annotations.name} has no question of this picture "
                    "with these words; take both files from the same release"
                )
            questions.append(question._replace(references=answers[question.id, words]))
        return questions

    def score(self, asked: Asked) -> Scores:
        """Return the mean agreement."""
        return score_means(judge(asked, read_answer, agree_with_people))


def _read_annotation(entry: object, where: str) -> tuple[tuple[str, str], tuple[str, ...]]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("question"), str) or "image_id" not in entry:
        raise InputError(f"{where}: expected an object with 'image_id', 'question' and 'answers'")
    given = entry.get("answers")
    if not isinstance(given, list) or not given or not all(isinstance(answer, str) for answer in given):
        raise InputError(f"{where}: field 'answers': expected a list of texts")
    return (str(entry["image_id"]), entry["question"].lower().strip()), tuple(given)


def _candidates(question: Question) -> list[str]:
    """Return what may be the question in a prompt: a line of it, or what stands before a request for the answer."""
    text = plain_text(question).lower()
    lines = text.split("\n")
    if "question: " in text:
        lines.append(text.partition("question: ")[2].partition(" short answer:")[0])
    return [line.strip() for line in lines]
