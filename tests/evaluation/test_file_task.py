"""Guards answer files that the original's scripts look into by the identifiers and words of its question files."""

import json

from llava_pl.evaluation.answers import read_answers, write_answers
from llava_pl.evaluation.benchmarks.open_answers import LlavaBench
from llava_pl.evaluation.task import match_answers

LINES = [
    {"question_id": 7, "image": "a.jpg", "text": "What is it?", "category": "x"},
    {"question_id": "v8", "text": "Why?"},
]


def test_answers_are_written_as_the_original_writes_them(tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    task = LlavaBench(questions=tmp_path / "q.jsonl")
    rows = [
        {"question_id": question.id, "prompt": question.prompt, "text": "a cat", "read": "a cat"}
        for question in task.questions()
    ]
    written = [task.as_written(question, row) for question, row in zip(task.questions(), rows, strict=True)]
    write_answers(tmp_path / "answers.jsonl", written)
    assert [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == [
        {"question_id": 7, "prompt": "What is it?", "text": "a cat", "read": "a cat", "answer_id": "7"},
        {"question_id": "v8", "prompt": "Why?", "text": "a cat", "read": "a cat", "answer_id": "v8"},
    ]
    asked = match_answers(task.questions(), read_answers(tmp_path / "answers.jsonl"), "answers")
    assert [row is not None for _, row in asked] == [True, True]


def test_lines_of_questions(tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    task = LlavaBench(questions=tmp_path / "q.jsonl", image_folder="pictures")
    assert [task.line_of(question) for question in task.questions()] == LINES
    assert str(task.image_folder) == "pictures"
