"""Guards: an answer file that a killed run left half-written is scored, or a wrong line passes unseen."""

import json
from pathlib import Path

import pytest

from llava_pl.evaluation.answers import find_header, header_differences, iterate_answers, read_answers, write_answers
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

    def rows():
        yield {"question_id": "1", "prompt": "p", "text": "new"}
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_answers(path, rows())
    assert read_answers(path) == [{"question_id": "1", "prompt": "p", "text": "old"}]
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question_id": "1", "text": "A"}\n\n{"question_id": "2"}\n', "line 3: field 'text': expected a string"),
        ('{"question_id": "1", "text": "A"}\n{"question_id"', "line 2 column 15: not valid JSON"),
        ("[]\n", "line 1: expected an object, found list"),
        ('{"round_id": 1, "text": "A"}', "line 1: field 'question_id': expected a string, found nothing"),
        (
            '{"question_id": "1", "text": "A", "credit": NaN}',
            "line 1: field 'credit': expected a number from 0 to 1, found nan",
        ),
        (
            '{"question_id": "1", "text": "A", "credit": 7}',
            "line 1: field 'credit': expected a number from 0 to 1, found 7",
        ),
    ],
)
def test_wrong_answer_file_is_named(tmp_path: Path, content, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_answers(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_missing_answer_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing\.jsonl: cannot be read \(No such file or directory\)"):
        read_answers(tmp_path / "nothing.jsonl")


def test_rows_from_a_mapping_and_from_an_iterable():
    assert list(iterate_answers({"7": "A"})) == [{"question_id": "7", "text": "A"}]
    assert list(iterate_answers([{"question_id": "7", "text": "A", "prompt": "?", "more": 1}])) == [
        {"question_id": "7", "text": "A", "prompt": "?"}
    ]


def test_header_travels_in_the_first_row(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    rows = [{"question_id": "1", "prompt": "p", "text": "A"}, {"question_id": "2", "prompt": "p", "text": "B"}]
    write_answers(path, rows, {"template": "vicuna_v1", "max_new_tokens": 16})
    read = read_answers(path)
    assert find_header(read) == {"template": "vicuna_v1", "max_new_tokens": 16}
    assert find_header(reversed(read)) == find_header(read)
    assert [{key: row[key] for key in ("question_id", "prompt", "text")} for row in read] == rows
    assert "metadata" not in read[1]


def test_files_of_the_original_have_no_header(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"question_id": 7, "prompt": "p", "text": "A", "answer_id": "x", "model_id": "m", "metadata": {}}\n'
    )
    assert read_answers(path) == [{"question_id": "7", "prompt": "p", "text": "A", "model_id": "m"}]
    path.write_text('{"question_id": 7, "text": "A", "metadata": {"answers": 3}}')
    assert find_header(read_answers(path)) == {}
    assert find_header(read_answers(path)) == {}


def test_headers_differ_in_what_both_say():
    first = {"template": "vicuna_v1", "step": 5, "only": 1}
    second = {"template": "plain", "step": 5, "other": 2}
    assert header_differences(first, second) == ["template: 'vicuna_v1' and 'plain'"]


def test_further_rounds_have_names_of_their_own(tmp_path: Path):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(f'{{"question_id": 12, "round_id": {n}, "text": "A"}}\n' for n in range(3)))
    assert [row["question_id"] for row in read_answers(path)] == ["12", "12#1", "12#2"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (
            {"acc": 50.0, "results": {"1": 0, "2": -1}, "outputs": {"1": "The answer is A.", "2": "hm"}},
            [
                {"question_id": "1", "text": "The answer is A.", "index": 0},
                {"question_id": "2", "text": "hm", "index": -1},
            ],
        ),
        (
            {"results": {"1": 2, "2": -1}},
            [{"question_id": "1", "text": "C", "index": 2}, {"question_id": "2", "text": "", "index": -1}],
        ),
        ({"outputs": {"1": "B"}}, [{"question_id": "1", "text": "B"}]),
    ],
)
def test_result_files(tmp_path: Path, content, rows):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    assert read_answers(path) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"acc": 1.0}', "expected an object with 'outputs'"),
        ('{"outputs": {"1": 2}}', "question '1': field 'text': expected a string, found 2"),
        ('{"results": {"1": "A"}}', "question '1': field 'index': expected a number, found 'A'"),
        ("[]", "expected a JSON object, found list"),
    ],
)
def test_wrong_result_file_is_named(tmp_path: Path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_answers(path)
