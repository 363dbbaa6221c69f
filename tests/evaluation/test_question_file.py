"""Guards the questions that the original's files hold: a prompt that is not the original's is another test."""

import json

import pytest

from llava_pl.evaluation.question_file import plain_text, read_question_file
from llava_pl.types import InputError


def test_questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question_id": 7, "image": "a/b.jpg", "text": "What is it?\nShort.", "category": "x"},
        {"question_id": "code/1.png", "text": "No picture?"},
        {"question_id": "c", "image": "c.jpg", "text": "Before <image> and after"},
    ]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows) + "\n")
    questions = read_question_file(path)
    assert [row for _, row in questions] == rows
    assert [(question.id, question.prompt, question.image) for question, _ in questions] == [
        ("7", "<image>\nWhat is it?\nShort.", "a/b.jpg"),
        ("code/1.png", "No picture?", None),
        ("c", "Before <image> and after", "c.jpg"),
    ]
    assert plain_text(questions[0][0]) == "What is it?\nShort."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "?"}', "line 2: field 'question_id': expected text or a number, found None"),
        ('{"question_id": true, "text": "?"}', "line 2: field 'question_id': expected text or a number, found True"),
        ('{"question_id": 1}', "line 2: field 'text': expected a question, found None"),
        ('{"question_id": 1, "text": " "}', "line 2: field 'text': expected a question, found ' '"),
        ('{"question_id": 1, "text": "?", "image": 3}', "line 2: field 'image': expected a file name, found 3"),
        ("[1]", "line 2: expected an object, found list"),
        ('{"a"', "line 2 column 5: not valid JSON"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question_id": 1, "text": "?"}\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        read_question_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_no_file_and_no_question(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read \(No such file or directory\)"):
        read_question_file(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="expected questions, one JSON object a line, found none"):
        read_question_file(tmp_path / "empty.jsonl")
