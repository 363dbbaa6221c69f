"""Guards GQA: answers that are compared in another form than its own evaluation has."""

import json

import pytest

from llava_pl.evaluation.benchmarks.gqa import Gqa, read_answer
from llava_pl.types import InputError

ENTRIES = {
    "201": {"answer": "yes", "types": {"structural": "verify", "semantic": "obj"}},
    "202": {"answer": "left", "types": {"structural": "query", "semantic": "rel"}},
    "203": {"answer": "no", "types": {"structural": "choose", "semantic": "obj"}},
}


@pytest.fixture
def gqa(write_lines, tmp_path):
    (tmp_path / "annotations.json").write_text(json.dumps(ENTRIES))
    rows = [{"question_id": name, "image": f"n{name}.jpg", "text": "?", "category": "default"} for name in ENTRIES]
    return Gqa(questions=write_lines("questions.jsonl", rows), annotations=tmp_path / "annotations.json")


def test_scores_by_hand(gqa, answer, show):
    assert show(gqa.score(answer(gqa, ["Yes.", "Left", None]))) == {
        "accuracy": (round(200 / 3, 6), 3),
        "accuracy/binary": (50.0, 2),
        "accuracy/open": (100.0, 1),
        "accuracy/verify": (100.0, 1),
        "accuracy/obj": (50.0, 2),
        "accuracy/query": (100.0, 1),
        "accuracy/rel": (100.0, 1),
        "accuracy/choose": (0.0, 1),
    }


@pytest.mark.parametrize(
    ("text", "reading"), [("Yes...", "yes"), ("the left", "the left"), (" Left", " left"), ("", "")]
)
def test_form(text, reading):
    assert read_answer(text) == reading


def test_submission(gqa, tmp_path, answer):
    gqa.write_submission(tmp_path / "predictions.json", answer(gqa, ["Yes.", "Left", None]))
    assert json.loads((tmp_path / "predictions.json").read_text()) == [
        {"questionId": "201", "prediction": "yes"},
        {"questionId": "202", "prediction": "left"},
        {"questionId": "203", "prediction": ""},
    ]


def test_questions_without_an_answer_are_refused(write_lines, tmp_path, gqa):
    path = write_lines("other.jsonl", [{"question_id": "999", "image": "x.jpg", "text": "?"}])
    with pytest.raises(InputError, match="question '999': expected one with an 'answer' in"):
        Gqa(questions=path, annotations=tmp_path / "annotations.json").questions()
