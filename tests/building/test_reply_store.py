"""Guards what was paid for: a reply that is lost, taken for another request's, or asked for again."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from llava_pl.building.reply_store import ReplyStore, Teacher, hash_request
from llava_pl.endpoint import Failure, Message, Reply
from llava_pl.types import InputError

TEACHER = Teacher("tiny", 0.7, 1024)
MESSAGES = [Message(role="user", content="h\u00e9?")]
REPLY = Reply("Yes.\nH\u00e9!", "stop", 7, 3)
LINE = {
    "request": "a",
    "kind": "detailed",
    "text": "b",
    "finish": "stop",
    "num_read": 1,
    "num_written": 2,
    "max_tokens": None,
}


def test_the_name_of_a_request_is_all_that_decides_its_reply():
    name = hash_request(TEACHER, MESSAGES)
    content = '{"messages": [{"content": "h\\u00e9?", "role": "user"}], "model": "tiny", "temperature": 0.7}'
    assert name == sha256(content.encode()).hexdigest()
    others = [hash_request(replace(TEACHER, **change), MESSAGES) for change in ({"model": "x"}, {"temperature": None})]
    others.append(hash_request(TEACHER, [Message(role="system", content="h\u00e9?")]))
    assert len({name, *others}) == 4
    assert hash_request(replace(TEACHER, max_tokens=5), MESSAGES) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "--model: expected the name of a model"),
        ({"temperature": -3.0}, "--temperature: expected at least 0, found -3.0"),
        ({"max_tokens": 0}, "--max_tokens: expected at least 1, found 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        replace(TEACHER, **options)


def test_replies_are_kept(tmp_path):
    path = tmp_path / "r.jsonl"
    store = ReplyStore(path)
    assert store.find("a") is None
    assert store.is_missing("a", 9)
    assert not path.exists()
    store.add("a", "x.png", "detailed", REPLY, 9)
    store.add("b", "y.png", "detailed", Reply("", num_read=5), 9)
    again = ReplyStore(path)
    assert store.find("a") == again.find("a") == REPLY
    assert again.find("b") == Reply("", num_read=5)
    assert not again.is_missing("a", 99)
    assert (again.num_read, again.num_written) == (store.num_read, store.num_written) == (12, 3)


def test_replies_are_counted_by_kind(tmp_path):
    store = ReplyStore(tmp_path / "r.jsonl")
    for name, kind in {"a": "detailed", "b": "reasoning", "c": "detailed"}.items():
        store.add(name, "x.png", kind, REPLY, 9)
    store.add("d", "x.png", "conversation", Failure("refused"), 9)
    for each in (store, ReplyStore(tmp_path / "r.jsonl")):
        assert [each.count(kinds) for kinds in (["detailed"], ["reasoning", "detailed"], ["conversation"])] == [2, 3, 0]


def test_a_reply_that_was_cut_off_is_asked_for_again_when_it_may_be_longer(tmp_path):
    path = tmp_path / "r.jsonl"
    store = ReplyStore(path)
    store.add("a", "x.png", "detailed", Reply("Ye", "length", 7, 1), 9)
    store.add("b", "x.png", "detailed", Reply("Ye", "length", 7, 1), None)
    for each in (store, ReplyStore(path)):
        assert [each.is_missing("a", most) for most in (8, 9, 10, None)] == [False, False, True, True]
        assert not each.is_missing("b", 10_000)
        assert each.find("a").text == "Ye"
    store.add("a", "x.png", "detailed", REPLY, 10)
    again = ReplyStore(path)
    assert again.find("a") == REPLY
    assert not again.is_missing("a", None)
    assert (again.num_read, again.num_written) == (21, 5)  # both were paid for


def test_what_failed_is_known(tmp_path):
    path = tmp_path / "r.jsonl"
    store = ReplyStore(path)
    for words in ("refused", "refused", "failed"):
        store.add("a", "x.png", "detailed", Failure(words), 9)
    assert len(path.read_text().splitlines()) == 2
    again = ReplyStore(path)
    assert store.failed == again.failed == {"a": "failed"}
    assert again.find("a") is None
    assert again.is_missing("a", 9)
    again.add("a", "x.png", "detailed", REPLY, 9)
    assert again.failed == ReplyStore(path).failed == {}


def test_what_may_be_paid_for_without_a_reply_is_counted_each_time(tmp_path):
    path = tmp_path / "r.jsonl"
    store = ReplyStore(path)
    for _ in range(2):
        store.add("a", "x.png", "detailed", Failure("late", num_read=10, num_written=9), 9)
    store.add("a", "x.png", "detailed", REPLY, 9)
    again = ReplyStore(path)
    assert (store.num_read, store.num_written) == (again.num_read, again.num_written) == (27, 21)


@pytest.mark.parametrize("num_bytes", [1, 30, 110, 113])
def test_a_line_that_a_kill_has_torn_is_dropped(num_bytes, tmp_path):
    path = tmp_path / "r.jsonl"
    ReplyStore(path).add("a", "x.png", "detailed", REPLY, 9)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:num_bytes])
    store = ReplyStore(path)
    assert store.find("a") == REPLY
    assert path.read_bytes() == whole + whole[:num_bytes]  # reading changes nothing
    for name in "bc":
        store.add(name, "x.png", "detailed", REPLY, 9)
    assert path.read_bytes().startswith(whole + b'{"request": "b"')
    assert ReplyStore(path).find("c") == REPLY


def test_a_reply_that_cannot_be_kept(tmp_path):
    store = ReplyStore(tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").mkdir()
    with pytest.raises(InputError, match=r"r\.jsonl: a reply cannot be kept \(Is a directory\); make room"):
        store.add("a", "x.png", "detailed", REPLY, 9)
    assert store.find("a") is None


@pytest.mark.parametrize(
    "line",
    [
        "{}", "[1]", "no JSON", '{"request": "a", "kind": "detailed", "failed": "x", "num_read": -1}',
        '{"request": 1, "kind": "detailed", "failed": "x"}', '{"request": "a", "failed": "x"}',
        *(
            json.dumps(LINE | change)
            for change in (
                {"text": ["b"]}, {"text": None}, {"finish": 5}, {"num_read": -1}, {"num_written": "2"},
                {"max_tokens": "9"}, {"kind": 5},
            )
        ),
    ],
)  # fmt: skip
def test_what_is_no_file_of_replies(line, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"r\.jsonl: line 1"):
        ReplyStore(path)
    assert path.read_text() == f"{line}\n"
