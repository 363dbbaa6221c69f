"""Guards the answers that a judge reads: each under the identifier that it is looked for."""

import json

import pytest

from llava_pl.evaluation.benchmarks.open_answers import LlavaBench, MmVet
from llava_pl.types import InputError

ROWS = [
    {"question_id": 0, "image": "a.jpg", "text": "What is x?"},
    {"question_id": 1, "image": "b.jpg", "text": "Why?"},
]


def test_answers_of_mm_vet(write_lines, tmp_path, answer):
    task = MmVet(questions=write_lines("questions.jsonl", ROWS))
    task.write_submission(tmp_path / "results.json", answer(task, ["-1, -5", None]))
    assert json.loads((tmp_path / "results.json").read_text()) == {"v1_0": "-1, -5"}


def test_nothing_is_scored(write_lines, tmp_path, answer):
    task = LlavaBench(questions=write_lines("questions.jsonl", ROWS))
    scores = task.score(answer(task, ["a view", None]))
    assert (scores.rows, scores.unanswered) == ((), ["1"])
    with pytest.raises(InputError, match="llava-bench has no file of its own"):
        task.write_submission(tmp_path / "results.json", answer(task, ["a view", None]))
