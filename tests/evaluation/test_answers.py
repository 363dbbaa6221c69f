"""Guards: an answer file that a killed run left half-written is scored, or a wrong line passes unseen."""

from pathlib import Path

import pytest

from llava_pl.evaluation.answers import iterate_answers, read_answers, write_answers
from llava_pl.types import InputError


def test_answer_file_round_trip(tmp_path: Path):
    path = tmp_path / "new" / "answers.jsonl"
    rows = [
        {"question_id": "1", "prompt": "<image>\nWhich?", "text": "A"},
        {"question_id": "2", "prompt": "Which?", "text": "two\nlines \u2028 \u00e9"},
    ]
    write_answers(path, rows)
    assert read_answers(path) == rows
    assert [file.name for file in path.parent.iterdir()] == ["answers.jsonl"]
    assert path.read_text().splitlines()[0] == '{"question_id": "1", "prompt": "<image>\\nWhich?", "text": "A"}'
    assert list(iterate_answers(str(path))) == rows


def test_interrupted_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    write_answers(path, [{"question_id": "1", "prompt": "p", "text": "old"}])
    with pytest.raises(KeyError):
        write_answers(path, [{"question_id": "1", "prompt": "p", "text": "new"}, {"question_id": "2"}])
    assert read_answers(path) == [{"question_id": "1", "prompt": "p", "text": "old"}]
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question_id": "1", "text": "A"}\n\n{"question_id": "2"}\n', "line 3: field 'text': expected a string"),
        ('{"question_id": "1", "text": "A"}\n{"question_id"', "line 2 column 15: not valid JSON"),
        ("[]\n", "line 1: expected an object, found list"),
    ],
)
def test_wrong_answer_file_is_named(tmp_path: Path, content, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_answers(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_missing_answer_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing\.jsonl: answer file cannot be read"):
        read_answers(tmp_path / "nothing.jsonl")


def test_rows_from_a_mapping_and_from_an_iterable():
    assert list(iterate_answers({"7": "A"})) == [{"question_id": "7", "text": "A"}]
    assert list(iterate_answers([{"question_id": "7", "text": "A", "prompt": "?", "more": 1}])) == [
        {"question_id": "7", "text": "A", "prompt": "?"}
    ]
