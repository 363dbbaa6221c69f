"""Guards SEED-Bench: questions of films counted as pictures, and letters read in another way than the original's."""

import json

import pytest

from llava_pl.evaluation.benchmarks.seed_bench import SeedBench
from llava_pl.types import InputError

CHOICES = {f"choice_{letter}": f"thing {letter}" for letter in "abcd"}
CONTENT = {
    "question_type": {"Scene Understanding": 1, "Action Recognition": 10},
    "questions": [
        {"question_id": "101", "answer": "A", "question_type_id": 1, "data_type": "image", **CHOICES},
        {"question_id": "102", "answer": "D", "question_type_id": 1, "data_type": "image", **CHOICES},
        {"question_id": "v3", "answer": "B", "question_type_id": 10, "data_type": "video", **CHOICES},
    ],
}


@pytest.fixture
def make(write_lines, tmp_path):
    (tmp_path / "SEED-Bench.json").write_text(json.dumps(CONTENT))
    rows = [{"question_id": 101, "image": "a.jpg", "text": "?"}, {"question_id": 102, "image": "b.jpg", "text": "?"}]
    path = write_lines("questions.jsonl", [*rows, {"question_id": "v3", "image": "c.png", "text": "?"}])
    return lambda **options: SeedBench(questions=path, annotations=tmp_path / "SEED-Bench.json", **options)


def test_scores_by_hand(make, answer, show):
    task = make()
    assert show(task.score(answer(task, ["A", "D.", "B"]))) == {
        "accuracy": (round(200 / 3, 6), 3),
        "accuracy/image": (50.0, 2),
        "accuracy/video": (100.0, 1),
        "accuracy/Scene Understanding": (50.0, 2),
        "accuracy/Action Recognition": (100.0, 1),
    }


def test_other_parsers_read_more(make, answer):
    task = make(parser="lenient")
    assert task.score(answer(task, ["thing a", "D.", "The answer is B."]))["accuracy"].value == 100.0


def test_submission(make, answer, tmp_path):
    task = make()
    task.write_submission(tmp_path / "upload.jsonl", answer(task, ["A", "D.", None]))
    assert [json.loads(line) for line in (tmp_path / "upload.jsonl").read_text().splitlines()] == [
        {"question_id": "101", "prediction": "A"},
        {"question_id": "102", "prediction": "D."},
        {"question_id": "v3", "prediction": ""},
    ]


def test_questions_without_an_answer_are_refused(write_lines, tmp_path, make):
    path = write_lines("other.jsonl", [{"question_id": 7, "image": "x.jpg", "text": "?"}])
    with pytest.raises(InputError, match="question '7': expected one with an answer from A to D"):
        SeedBench(questions=path, annotations=tmp_path / "SEED-Bench.json").questions()
    (tmp_path / "SEED-Bench.json").write_text('{"questions": ["101"]}')
    with pytest.raises(InputError, match="expected 'questions', a list of objects"):
        make().questions()
