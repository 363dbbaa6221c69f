"""Guards what was paid for: a reply that is lost, taken for another request's, or asked for again."""

from dataclasses import replace
from hashlib import sha256

import pytest

from llava_pl.building.written_store import Teacher, WrittenStore, hash_request
from llava_pl.endpoint import Message, Reply
from llava_pl.types import InputError

TEACHER = Teacher("tiny")
MESSAGES = [Message(role="user", content="h\u00e9?")]
REPLY = Reply("Yes.\nH\u00e9!", "stop", 7, 3)


def test_the_name_of_a_request_is_all_that_decides_its_reply():
    name = hash_request(TEACHER, MESSAGES)
    content = (
        '{"max_tokens": 1024, "messages": [{"content": "h\\u00e9?", "role": "user"}], "model": "tiny", '
        '"temperature": 0.7}'
    )
    assert name == sha256(content.encode()).hexdigest()
    others = [
        hash_request(replace(TEACHER, **change), MESSAGES)
        for change in ({"model": "large"}, {"temperature": None}, {"max_tokens": 5})
    ]
    others.append(hash_request(TEACHER, [Message(role="system", content="h\u00e9?")]))
    assert len({name, *others}) == 5


def test_replies_are_kept(tmp_path):
    path = tmp_path / "r.jsonl"
    store = WrittenStore(path)
    assert store.find("a") is None
    assert not path.exists()
    store.add("a", "x.png", "detailed", REPLY)
    store.add("b", "y.png", "detailed", Reply(""))
    assert store.find("a") == WrittenStore(path).find("a") == REPLY
    assert WrittenStore(path).find("b") == Reply("")


def test_a_line_that_a_kill_has_torn_is_dropped(tmp_path):
    path = tmp_path / "r.jsonl"
    WrittenStore(path).add("a", "x.png", "detailed", REPLY)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    store = WrittenStore(path)
    assert path.read_bytes() == whole
    store.add("b", "x.png", "detailed", REPLY)
    assert WrittenStore(path).find("b") == REPLY


@pytest.mark.parametrize("line", ["{}", '{"request": "a", "text": "b"}', "[1]", "no JSON"])
def test_what_is_no_file_of_replies(line, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"r\.jsonl: line 1"):
        WrittenStore(path)
    assert path.read_text() == f"{line}\n"
