"""Two sets of answers to the same ten questions."""

import pytest

from llava_pl.evaluation.report import Answered
from llava_pl.evaluation.scienceqa import score_questions
from llava_pl.types import Question

QUESTIONS = [
    Question(str(n), f"<image>\nQ{n} <b>", ("a", "b"), 0, f"{n}.png", ("NAT", "topic:birds")) for n in range(10)
]


def answered(label: str, texts: list[str | None], **header) -> Answered:
    rows = [None if text is None else {"question_id": "", "text": text} for text in texts]
    asked = list(zip(QUESTIONS, rows, strict=True))
    return Answered(label, asked, score_questions(asked, "strict"), {"answers": header})


@pytest.fixture
def first() -> Answered:
    """Eight right answers, a wrong one, and one that cannot be read."""
    return answered("first.jsonl", ["A"] * 8 + ["B", "hm|<i>"], template="v1")


@pytest.fixture
def second() -> Answered:
    """Five right answers, four wrong ones, and one question without an answer."""
    return answered("second.jsonl", ["A"] * 5 + ["B"] * 4 + [None], template="plain")
