"""Guards VQAv2 and VizWiz: a submission that leaves out a question, which the server refuses whole."""

import json

import pytest

from llava_pl.evaluation.benchmarks.vqa import VizWiz, VqaV2
from llava_pl.types import InputError

ROWS = [
    {"question_id": 11, "image": "a.jpg", "text": "How many?\nAnswer the question using a single word or phrase."},
    {"question_id": 12, "image": "b.jpg", "text": "Is it?\nAnswer the question using a single word or phrase."},
]


def test_submission_of_vqav2(write_lines, tmp_path, answer):
    task = VqaV2(questions=write_lines("questions.jsonl", ROWS))
    task.write_submission(tmp_path / "upload.json", answer(task, ["Two.", None]))
    assert json.loads((tmp_path / "upload.json").read_text()) == [
        {"question_id": 11, "answer": "2"},
        {"question_id": 12, "answer": ""},
    ]


def test_submission_of_vizwiz(write_lines, tmp_path, answer):
    task = VizWiz(questions=write_lines("questions.jsonl", ROWS))
    task.write_submission(tmp_path / "upload.json", answer(task, ["Two.", "the Yes"]))
    assert json.loads((tmp_path / "upload.json").read_text()) == [
        {"image": "a.jpg", "answer": "2"},
        {"image": "b.jpg", "answer": "yes"},
    ]


def test_no_score_where_people_are_unknown(write_lines, answer):
    task = VqaV2(questions=write_lines("questions.jsonl", ROWS))
    scores = task.score(answer(task, ["Two.", None]))
    assert (scores.rows, scores.unanswered) == ((), ["12"])


@pytest.mark.parametrize("task_class", [VqaV2, VizWiz])
def test_scores_by_hand(write_lines, tmp_path, answer, show, task_class):
    entries = [
        {
            "question_id": 11,
            "image": "a.jpg",
            "answer_type": "number",
            "answers": [{"answer": "2"}] * 2 + [{"answer": "3"}] * 8,
        },
        {"question_id": 12, "image": "b.jpg", "answer_type": "yes/no", "answers": [{"answer": "yes"}] * 10},
    ]
    content = {"annotations": entries} if task_class is VqaV2 else entries
    (tmp_path / "people.json").write_text(json.dumps(content))
    task = task_class(questions=write_lines("questions.jsonl", ROWS), annotations=tmp_path / "people.json")
    # Two of ten people: (2 * 1/3 + 8 * 2/3) / 10
    assert show(task.score(answer(task, ["Two.", "Yes"]))) == {
        "accuracy": (80.0, 2), "accuracy/number": (60.0, 1), "accuracy/yes/no": (100.0, 1)
    }  # fmt: skip


def test_wrong_annotations(write_lines, tmp_path):
    path = write_lines("questions.jsonl", ROWS)
    (tmp_path / "people.json").write_text(json.dumps([{"question_id": 11, "answers": [{"answer": "2"}]}]))
    with pytest.raises(InputError, match=r"question '12': .* has no entry with its question_id"):
        VqaV2(questions=path, annotations=tmp_path / "people.json").questions()
    (tmp_path / "people.json").write_text(json.dumps([{"question_id": 11, "answers": ["2"]}]))
    with pytest.raises(InputError, match="entry 0: field 'answers': expected a list of objects with an 'answer'"):
        VqaV2(questions=path, annotations=tmp_path / "people.json").questions()
    (tmp_path / "people.json").write_text('"x"')
    with pytest.raises(InputError, match="expected a list of annotations"):
        VqaV2(questions=path, annotations=tmp_path / "people.json").questions()
