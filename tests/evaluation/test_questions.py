"""Guards: answers that end up in the wrong file or under the wrong metric, or count twice."""

import json

import pytest

from llava_pl.evaluation.questions import QuestionScores
from llava_pl.types import Question

QUESTIONS = [
    Question("1", "<image>\nWhich?", ("a", "b"), 0, "1.png", ("NAT", "IMG")),
    Question("2", "Which?", ("a", "b"), 1, None, ("SOC",)),
    Question("3", "Wich, \u00e9?", ("a", "b", "c"), 2, None, ("NAT",)),
]


def finish(scores, folder):
    return {name: value.item() for name, value in scores.finish(folder, name="val-step7").items()}


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_loader(tmp_path):
    scores = QuestionScores(("own",), parser="llava")
    scores.update(0, QUESTIONS[:2], ["A", "A"])
    scores.update(0, QUESTIONS[2:], ["no idea"])
    assert finish(scores, tmp_path / "predictions") == {
        "accuracy": pytest.approx(100 / 3),
        "accuracy/IMG": 100.0,
        "accuracy/NAT": 50.0,
        "accuracy/SOC": 0.0,
        "count": 3.0,
        "unparsed": 1.0,
    }
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["scienceqa-val-step7.jsonl"]
    assert read(tmp_path / "predictions" / "scienceqa-val-step7.jsonl") == [
        {"question_id": "1", "prompt": "<image>\nWhich?", "text": "A"},
        {"question_id": "2", "prompt": "Which?", "text": "A"},
        {"question_id": "3", "prompt": "Wich, \u00e9?", "text": "no idea"},
    ]


def test_every_image_source_has_its_metrics_and_its_file(tmp_path):
    scores = QuestionScores(("own", "other", "grey", "none"), parser="llava")
    for loader, text in enumerate(["A", "B", "A", "?"]):
        scores.update(loader, QUESTIONS[:1], [text])
    own = {"accuracy": 100.0, "accuracy/IMG": 100.0, "accuracy/NAT": 100.0, "count": 1.0, "unparsed": 0.0}
    wrong = {**own, "accuracy": 0.0, "accuracy/IMG": 0.0, "accuracy/NAT": 0.0}
    expected = dict(own)
    for prefix, values in [("other", wrong), ("grey", own), ("none", {**wrong, "unparsed": 1.0})]:
        expected |= {f"{prefix}_image/{name}": value for name, value in values.items()}
    assert finish(scores, tmp_path) == expected
    texts = {path.name: [row["text"] for row in read(path)] for path in tmp_path.iterdir()}
    assert texts == {
        "scienceqa-val-step7.jsonl": ["A"],
        "scienceqa-val-step7-other-image.jsonl": ["B"],
        "scienceqa-val-step7-grey-image.jsonl": ["A"],
        "scienceqa-val-step7-none-image.jsonl": ["?"],
    }


def test_a_question_that_comes_twice_counts_once(tmp_path):
    """A distributed sampler repeats questions to fill the last batch."""
    scores = QuestionScores(("own",), parser="llava")
    scores.update(0, [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]], ["A", "B", "A"])
    values = finish(scores, tmp_path)
    assert (values["accuracy"], values["count"], values["accuracy/IMG"]) == (100.0, 2.0, 100.0)
    assert [row["question_id"] for row in read(tmp_path / "scienceqa-val-step7.jsonl")] == ["1", "2"]


def test_file_and_score_keep_the_same_of_two_answers(tmp_path):
    scores = QuestionScores(("own",), parser="llava")
    scores.update(0, [QUESTIONS[0]], ["B"])
    scores.update(0, [QUESTIONS[0]], ["A"])
    assert finish(scores, tmp_path)["accuracy"] == 100.0
    assert [row["text"] for row in read(tmp_path / "scienceqa-val-step7.jsonl")] == ["A"]


@pytest.mark.parametrize(("parser", "accuracy"), [("llava", 0.0), ("strict", 100.0)])
def test_letters_are_read_as_asked(tmp_path, parser, accuracy):
    scores = QuestionScores(("own",), parser=parser)
    scores.update(0, QUESTIONS[:1], ["(A)"])
    assert finish(scores, tmp_path)["accuracy"] == accuracy


def test_loaders_without_questions_leave_nothing(tmp_path):
    scores = QuestionScores(("own", "other"), parser="llava")
    assert finish(scores, tmp_path / "a") == {}
    assert not (tmp_path / "a").exists()
    scores.update(1, QUESTIONS[:1], ["A"])
    assert set(finish(scores, tmp_path / "b")) == {
        f"other_image/{name}" for name in ("accuracy", "accuracy/IMG", "accuracy/NAT", "count", "unparsed")
    }
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["scienceqa-val-step7-other-image.jsonl"]


def test_numbers_of_questions_and_texts_must_agree():
    scores = QuestionScores(("own",), parser="llava")
    with pytest.raises(ValueError, match="shorter"):
        scores.update(0, QUESTIONS[:2], ["A"])


def test_answers_stand_in_the_file_in_the_order_of_their_set(tmp_path):
    scores = QuestionScores(("own",), parser="llava")
    scores.update(0, [QUESTIONS[2], QUESTIONS[0]], ["C", "A"], places=[9, 3])
    scores.update(0, [QUESTIONS[1]], ["B"], places=[5])
    assert finish(scores, tmp_path)["accuracy"] == 100.0
    assert [row["question_id"] for row in read(tmp_path / "scienceqa-val-step7.jsonl")] == ["1", "2", "3"]


def test_scores_that_chose_an_answer_stand_beside_it(tmp_path):
    scores = QuestionScores(("own",), parser="llava")
    scores.update(0, QUESTIONS[:1], ["A"], scores=[{"A": -0.5, "B": -2.0}])
    finish(scores, tmp_path)
    assert read(tmp_path / "scienceqa-val-step7.jsonl") == [
        {"question_id": "1", "prompt": "<image>\nWhich?", "text": "A", "scores": {"A": -0.5, "B": -2.0}}
    ]
