"""A model beside a teacher that reads no pictures: the two ensembles of the LLaVA paper (section 5.2).

In: the answers of both to ScienceQA's questions, and what a judge said where they differ. Out: one set of answers.

"Complement" takes the teacher's answer, and the model's where the teacher names no letter (90.97 % in the paper).
"Judge" shows both answers to the teacher wherever they differ and takes what it then says (92.53 %); where that names
no letter, the model's.
"""

from __future__ import annotations

from collections.abc import Mapping

from llava_pl.data.scienceqa import OPTION_LETTERS
from llava_pl.evaluation.answers import AnswerRow
from llava_pl.evaluation.parsing import Parser, parse_letter
from llava_pl.evaluation.question_file import plain_text
from llava_pl.evaluation.scores import Asked
from llava_pl.types import Question

Texts = Mapping[str, str]
"""Answers by question."""


def complement(asked: Asked, teacher: Texts, parser: Parser) -> list[tuple[Question, AnswerRow | None]]:
    """Return the teacher's answers, and the model's where it was not asked or names none of the choices.

    Args:
        asked: Questions with the model's answers.
        teacher: The teacher's answers; for "judge", what it said to the prompts of `find_disagreements`.
        parser: How letters are read off answers.
    """
    merged: list[tuple[Question, AnswerRow | None]] = []
    for question, row in asked:
        text = teacher.get(question.id, "")
        is_answer = parse_letter(text, question.choices, parser=parser).index >= 0
        merged.append((question, _row(question, text) if is_answer else row))
    return merged


def find_disagreements(asked: Asked, teacher: Texts, parser: Parser) -> dict[str, str]:
    """Return what to ask the judge: a prompt for each question whose answers do not name the same choice.

    Args:
        asked: Questions with the model's answers.
        teacher: The teacher's answers; a question that it was not asked is left to the model.
        parser: How letters are read off answers.
    """
    prompts = {}
    for question, row in asked:
        if question.id not in teacher or row is None:
            continue
        texts = (row["text"], teacher[question.id])
        first, second = (parse_letter(text, question.choices, parser=parser).index for text in texts)
        if first != second or first < 0:
            prompts[question.id] = judge_prompt(question, *texts)
    return prompts


def teacher_prompt(question: Question) -> str:
    """Return what a teacher that sees no picture is asked: the question in words, and how to answer."""
    return f"{plain_text(question)}\n\nExplain your reasoning, then end with: The answer is X.\n{_letters(question)}"


def judge_prompt(question: Question, first: str, second: str) -> str:
    """Return what a judge is asked: the question in words, both answers, and how to answer."""
    return (
        f"{plain_text(question)}\n\nTwo answers were given to this question.\n\n"
        f"Answer 1, by someone who saw the picture if there is one:\n{first}\n\n"
        f"Answer 2, by someone who saw no picture:\n{second}\n\n"
        "Weigh both, give your own final answer with your reasons, and end with: The answer is X.\n"
        f"{_letters(question)}"
    )


def _letters(question: Question) -> str:
    return f"X is one of {', '.join(OPTION_LETTERS[: len(question.choices)])}."


def _row(question: Question, text: str) -> AnswerRow:
    return AnswerRow(question_id=question.id, prompt=question.prompt, text=text)
