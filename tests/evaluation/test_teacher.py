"""Guards a teacher that is paid: nothing is asked twice, nothing that came is lost, and no key is shown."""

import json

import pytest

from llava_pl.endpoint import Endpoint
from llava_pl.evaluation.teacher import ask_teacher
from llava_pl.types import InputError

PROMPTS = {str(n): f"Question {n}?" for n in range(6)}


def endpoint(server, **options) -> Endpoint:
    return Endpoint(server.url, "tiny", max_retries=0, **options)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_kept_and_replayed(teacher_server, tmp_path):
    path, came = tmp_path / "teacher.jsonl", []
    teacher_server.answer = lambda prompt: f"to {prompt}"
    said = ask_teacher(PROMPTS, path, endpoint(teacher_server), lambda: came.append(1))
    assert said == {name: f"to {prompt}" for name, prompt in PROMPTS.items()}
    assert (sorted(teacher_server.prompts), len(came)) == (sorted(PROMPTS.values()), 6)
    assert sorted(row["question_id"] for row in lines(path)) == list(PROMPTS)
    assert lines(path)[0].keys() == {"question_id", "prompt", "text", "model_id"}
    assert ask_teacher(PROMPTS, path, None) == said
    assert ask_teacher(PROMPTS, path, endpoint(teacher_server)) == said
    assert len(teacher_server.prompts) == 6
    assert "nobody-may-see" not in path.read_text()


def test_only_what_is_missing_is_asked(teacher_server, tmp_path):
    path = tmp_path / "teacher.jsonl"
    path.write_text('{"question_id": "2", "text": "before"}\n')
    said = ask_teacher(PROMPTS, path, endpoint(teacher_server))
    assert said["2"] == "before"
    assert len(teacher_server.prompts) == 5


def test_a_failure_keeps_what_came(teacher_server, tmp_path):
    path = tmp_path / "teacher.jsonl"
    teacher_server.answer = lambda prompt: 500 if "3" in prompt else "yes"
    with pytest.raises(InputError, match=r"status 500.*the same command goes on") as caught:
        ask_teacher(PROMPTS, path, endpoint(teacher_server, num_at_once=1))
    assert "nobody-may-see" not in str(caught.value)
    assert "\n" not in str(caught.value)
    kept = {row["question_id"] for row in lines(path)}
    assert kept == PROMPTS.keys() - {"3"}
    teacher_server.answer = lambda prompt: "yes"
    teacher_server.prompts.clear()
    assert len(ask_teacher(PROMPTS, path, endpoint(teacher_server))) == 6
    assert set(teacher_server.prompts) == {PROMPTS[name] for name in PROMPTS.keys() - kept}


def test_silence_is_no_answer(teacher_server, tmp_path):
    path = tmp_path / "teacher.jsonl"
    teacher_server.answer = lambda prompt: " " if "3" in prompt else "yes"
    assert ask_teacher(PROMPTS, path, endpoint(teacher_server)).keys() == PROMPTS.keys() - {"3"}
    teacher_server.answer = lambda prompt: "no"
    assert ask_teacher(PROMPTS, path, endpoint(teacher_server))["3"] == "no"
    assert len(teacher_server.prompts) == 7


def test_another_model_is_another_teacher(teacher_server, tmp_path):
    path = tmp_path / "teacher.jsonl"
    ask_teacher({"0": "?"}, path, endpoint(teacher_server))
    teacher_server.answer = lambda prompt: "no"
    other = Endpoint(teacher_server.url, "large", max_retries=0)
    assert ask_teacher({"0": "?"}, path, other) == {"0": "no"}
    assert [row["model_id"] for row in lines(path)] == ["tiny", "large"]


def test_what_was_put_off_is_asked_again(teacher_server, tmp_path):
    answers = iter([429, "yes"])
    teacher_server.answer = lambda prompt: next(answers)
    said = ask_teacher({"0": "?"}, tmp_path / "t.jsonl", Endpoint(teacher_server.url, "tiny", max_retries=2))
    assert said == {"0": "yes"}
    assert len(teacher_server.prompts) == 2


def test_without_an_endpoint_the_file_is_all_there_is(tmp_path):
    path = tmp_path / "teacher.jsonl"
    assert ask_teacher(PROMPTS, path, None) == {}
    path.write_text('{"question_id": "2", "text": "before"}\n{"question_id": "99", "text": "other"}\n')
    assert ask_teacher(PROMPTS, path, None) == {"2": "before"}


def test_no_endpoint_there(tmp_path, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    nowhere = Endpoint("http://me:secret@127.0.0.1:9/v1?key=secret", "tiny", max_retries=0)
    with pytest.raises(InputError, match=r"--endpoint http://127\.0\.0\.1:9/v1: Connection error"):
        ask_teacher({"0": "?"}, tmp_path / "t.jsonl", nowhere)


def test_no_key(tmp_path, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        ask_teacher({"0": "?"}, tmp_path / "t.jsonl", Endpoint("http://127.0.0.1:9/v1", "tiny"))


def test_result_files_are_not_added_to(teacher_server, tmp_path):
    path = tmp_path / "teacher.json"
    path.write_text('{"outputs": {"0": "The answer is A."}}')
    assert ask_teacher({"0": "?"}, path, endpoint(teacher_server)) == {"0": "The answer is A."}
    with pytest.raises(InputError, match="answers can only be added to a file of lines"):
        ask_teacher(PROMPTS, path, endpoint(teacher_server))


def test_what_was_said_to_another_prompt_is_asked_again(teacher_server, tmp_path):
    """A judge's prompt holds both answers: those of another model make another prompt."""
    path = tmp_path / "judge.jsonl"
    ask_teacher({"0": "old"}, path, endpoint(teacher_server))
    with pytest.raises(InputError, match="none of its 1 answers"):
        ask_teacher({"0": "new"}, path, None)
    teacher_server.answer = lambda prompt: f"to {prompt}"
    assert ask_teacher({"0": "new"}, path, endpoint(teacher_server)) == {"0": "to new"}
    assert ask_teacher({"0": "old"}, path, None) == {"0": "The answer is A."}


@pytest.mark.parametrize("content", ["precious single line", "my notes\nline two", '{"a": 1}\n[tor'])
def test_other_files_are_left_alone(teacher_server, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    for asked in (None, endpoint(teacher_server)):
        with pytest.raises(InputError, match=r"notes\.txt: line"):
            ask_teacher(PROMPTS, path, asked)
        assert path.read_text() == content


def test_a_file_is_only_read_without_an_endpoint(tmp_path):
    path = tmp_path / "teacher.jsonl"
    path.write_text('{"question_id": "0", "text": "kept"}\n{"question_id": "1", "te')
    with pytest.raises(InputError, match="line 2 column"):
        ask_teacher(PROMPTS, path, None)
    assert path.read_text().endswith('"te')


def test_words_that_were_asked_in(tmp_path):
    """A teacher answers questions, however they were put; a judge has seen two answers."""
    path = tmp_path / "teacher.jsonl"
    path.write_text('{"question_id": "0", "prompt": "as GPT-4 was asked", "text": "A"}\n')
    assert ask_teacher(PROMPTS, path, None, in_any_words=True) == {"0": "A"}
    with pytest.raises(InputError, match="none of its 1 answers is to one of the 6 prompts"):
        ask_teacher(PROMPTS, path, None)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": [{"message": null}]}', b'"text"'])
def test_what_is_no_chat_completion(teacher_server, tmp_path, body):
    teacher_server.answer = lambda prompt: (200, body)
    with pytest.raises(InputError, match="0 new answers are in") as caught:
        ask_teacher({"0": "?"}, tmp_path / "t.jsonl", endpoint(teacher_server))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("torn", ['{"question_id": "1", "te', '{"question_id": "1", "text": "whole"}'])
def test_a_line_without_its_end_is_cut_or_ended(teacher_server, tmp_path, torn):
    path = tmp_path / "teacher.jsonl"
    path.write_text('{"question_id": "0", "text": "kept"}\n' + torn)
    said = ask_teacher({name: PROMPTS[name] for name in "012"}, path, endpoint(teacher_server))
    assert said["0"] == "kept"
    assert said["1"] == ("whole" if torn.endswith("}") else "The answer is A.")
    assert sorted(row["question_id"] for row in lines(path)) == ["0", "1", "2"]
