"""Guards TextVQA: an answer that is compared with what people said of another question."""

import json

import pytest

from llava_pl.evaluation.benchmarks.textvqa import TextVqa
from llava_pl.evaluation.task import match_answers
from llava_pl.types import InputError

REQUEST = "Answer the question using a single word or phrase."
DATA = [
    {"image_id": "a", "question": "What brand is it?", "answers": ["nokia"] * 3 + ["nokia phone"] * 7},
    {"image_id": "a", "question": "What time is it?", "answers": ["10:30"] * 10},
    {"image_id": "b", "question": "What is written?", "answers": ["stop", "Stop", "the stop!"] + ["go"] * 7},
]
TEXTS = [
    f"What brand is it?\nReference OCR token: NOKIA, 10:30\n{REQUEST}",
    f"What time is it?\n{REQUEST}",
    f"Reference OCR token: STOP\nWhat is written?\n{REQUEST}",
]


@pytest.fixture
def textvqa(write_lines, tmp_path):
    (tmp_path / "annotations.json").write_text(json.dumps({"data": DATA}))
    rows = [
        {"question_id": entry["image_id"], "image": f"{entry['image_id']}.jpg", "text": text}
        for entry, text in zip(DATA, TEXTS, strict=True)
    ]
    return TextVqa(questions=write_lines("questions.jsonl", rows), annotations=tmp_path / "annotations.json")


def test_scores_by_hand(textvqa, answer, show):
    scores = textvqa.score(answer(textvqa, ["Nokia", "10:30.", "a stop"]))
    # Three of ten people: leaving out one of the three leaves two of three agreeing, seven times; (3 * 2/3 + 7) / 10.
    assert show(scores) == {"accuracy": (round(100 * (0.9 + 1.0 + 0.9) / 3, 6), 3)}
    assert [verdict.reading for verdict in scores.verdicts] == ["nokia", "10:30", "stop"]
    assert len({verdict.id for verdict in scores.verdicts}) == 3


def test_missing_and_wrong_answers(textvqa, answer, show):
    assert show(textvqa.score(answer(textvqa, [None, "half past ten", ""]))) == {"accuracy": (0.0, 3)}


def test_questions_about_one_picture_are_told_apart_by_their_words(textvqa):
    rows = [{"question_id": "a", "prompt": TEXTS[1], "text": "10:30"}]
    asked = match_answers(textvqa.questions(), rows, "answers.jsonl")
    assert [row is not None for _, row in asked] == [False, True, False]


def test_other_form_of_a_prompt(write_lines, tmp_path, textvqa):
    text = "OCR tokens: STOP. Question: What is written? Short answer:"
    path = write_lines("other.jsonl", [{"question_id": "b", "image": "b.jpg", "text": text}])
    assert len(TextVqa(questions=path, annotations=tmp_path / "annotations.json").questions()) == 1


def test_files_of_two_releases_are_refused(write_lines, tmp_path, textvqa):
    path = write_lines("other.jsonl", [{"question_id": "b", "image": "b.jpg", "text": "What else?"}])
    with pytest.raises(InputError, match=r"question 'b': annotations\.json has no question of this picture"):
        TextVqa(questions=path, annotations=tmp_path / "annotations.json").questions()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "field 'data': expected a list of annotated questions"),
        ({"data": [{"image_id": "a"}]}, "entry 0: expected an object with 'image_id', 'question' and 'answers'"),
        ({"data": [{"image_id": "a", "question": "?", "answers": []}]}, "entry 0: field 'answers'"),
    ],
)
def test_wrong_annotations(write_lines, tmp_path, content, message):
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    path = write_lines("questions.jsonl", [{"question_id": "a", "text": "?"}])
    with pytest.raises(InputError, match=message):
        TextVqa(questions=path, annotations=tmp_path / "annotations.json").questions()
