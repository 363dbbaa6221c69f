"""Guards one question to an endpoint: paid for twice, a reply that no file can hold, tokens that go uncounted."""

import json
import time
from email.utils import formatdate

import pytest
import scripted_teacher
from scripted_teacher import completion

from llava_pl.endpoint import Endpoint, Failure, Message, Reply, count_most_tokens
from llava_pl.endpoint.client import Client
from llava_pl.endpoint.pace import Pace

MESSAGES = [Message(role="system", content="x" * 30), Message(role="user", content="12?")]


LOST = {"num_read": 33 + 2 * 8, "num_written": 350}
"""What may be paid for where a reply is lost: a token a byte, a few a message, and a guess."""


def ask(server, *, max_tokens=None, **options):
    settings = Endpoint(server.url, "tiny", **{"max_retries": 0, **options})
    return Client(settings, Pace(None), max_tokens).ask(MESSAGES)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}], "ab"),
        ("half \ud83d, two halves \ud83d\ude00", "half \ufffd, two halves \U0001f600"),
        ("Bearer a-key-that-nobody-may-see, a-key-that-***", "Bearer [the key], [the key]***"),
    ],
)
def test_texts(teacher_server, content, text):
    teacher_server.answer = lambda prompt: completion(content)
    assert ask(teacher_server) == Reply(text, "stop", 100, 20)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (9, 2)),  # of 33 and of 5 characters
        ({"prompt_tokens": "100", "completion_tokens": "20"}, (9, 2)),
        ({"prompt_tokens": -100, "completion_tokens": None}, (9, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 7}, (9, 7)),
        ("many", (9, 2)),
    ],
)
def test_tokens_that_are_not_counted_are_estimated(teacher_server, usage, tokens):
    teacher_server.answer = lambda prompt: completion("12345", usage=usage)
    assert ask(teacher_server) == Reply("12345", "stop", *tokens)


def test_why_it_ended(teacher_server):
    teacher_server.answer = lambda prompt: completion("", finish=5)
    assert ask(teacher_server).finish == "5"
    teacher_server.answer = lambda prompt: completion("", finish=None)
    assert ask(teacher_server).finish == "stop"


@pytest.mark.parametrize(
    "answer",
    [*((200, body) for body in scripted_teacher.BODIES), completion(7), completion({"text": "a"}), (200, b"\xff{")],
)
def test_what_is_no_reply(teacher_server, answer):
    """It may have been paid for, and is not sent again by itself."""
    teacher_server.answer = lambda prompt: answer
    outcome = ask(teacher_server, max_retries=3)
    assert outcome == Failure(outcome.words, **LOST)
    assert "\n" not in outcome.words
    assert len(teacher_server.prompts) == 1


def test_a_reply_that_comes_too_late_is_not_paid_for_twice(teacher_server):
    teacher_server.reply = scripted_teacher.slowly(teacher_server.reply, 0.5)
    assert ask(teacher_server, max_retries=3, timeout=0.1) == Failure("no reply in --timeout", **LOST)
    assert len(teacher_server.prompts) == 1


def test_a_connection_that_breaks_once_it_was_sent_is_not_paid_for_twice(teacher_server):
    teacher_server.answer = lambda prompt: (200, b"", {"Content-Length": "many"})
    broken = Failure("the connection broke", num_read=LOST["num_read"], num_written=50)
    assert ask(teacher_server, max_retries=3, max_tokens=50) == broken
    assert len(teacher_server.prompts) == 1


@pytest.mark.parametrize("status", [408, 504])
def test_what_an_endpoint_gave_up_is_not_paid_for_twice(teacher_server, status):
    teacher_server.answer = lambda prompt: status
    outcome = ask(teacher_server, max_retries=3)
    assert outcome == Failure(outcome.words, **LOST)
    assert len(teacher_server.prompts) == 1


def test_nobody_is_there(teacher_server):
    teacher_server.close()
    assert ask(teacher_server) == Failure("Connection error.", is_for_all=True)


def test_the_newer_name_of_the_longest_reply(teacher_server):
    """OpenAI's reasoning models refuse the older one; that is no failure and no retry."""
    words = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    refusal = (400, json.dumps({"error": {"message": words}}).encode())
    teacher_server.reply = lambda request: refusal if "max_tokens" in request else "yes"
    client = Client(Endpoint(teacher_server.url, "tiny", max_retries=0), Pace(None), 50)
    assert [client.ask(MESSAGES).text for _ in range(2)] == ["yes", "yes"]
    names = [set(request) - {"messages", "model", "temperature"} for request in teacher_server.requests]
    assert names == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]
    assert teacher_server.requests[-1]["max_completion_tokens"] == 50


def test_an_endpoint_that_takes_neither_name(teacher_server):
    teacher_server.answer = lambda prompt: (400, b"neither max_tokens nor max_completion_tokens")
    assert isinstance(ask(teacher_server, max_tokens=50), Failure)
    assert len(teacher_server.prompts) == 2


def test_a_request_has_no_more_tokens_than_bytes():
    hindi = [Message(role="user", content="\u0928\u092e")]
    assert count_most_tokens(hindi) == 6 + 8


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_what_is_sent_again(teacher_server, status):
    answers = iter([(status, b"", {"retry-after-ms": "1"}), "yes"])
    teacher_server.answer = lambda prompt: next(answers)
    assert ask(teacher_server, max_retries=1).text == "yes"


@pytest.mark.parametrize("status", [400, 401, 413, 422])
def test_what_is_not_sent_again(teacher_server, status):
    teacher_server.answer = lambda prompt: status
    outcome = ask(teacher_server, max_retries=3)
    assert len(teacher_server.prompts) == 1
    assert outcome == Failure(outcome.words, is_for_all=status == 401, advice=outcome.advice)
    assert f"status {status}" in outcome.words


@pytest.mark.parametrize(
    ("name", "value", "least", "most"),
    [
        ("retry-after-ms", "200", 0.2, 0.4),
        ("retry-after", "0.2", 0.2, 0.4),
        ("retry-after", "soon", 0.37, 0.6),  # as without: half a second, less a quarter of it at most
        ("retry-after", "-1", 0.37, 0.6),
        ("retry-after", formatdate(0, usegmt=True), 0.0, 0.3),
    ],
)
def test_how_long_it_waits(teacher_server, name, value, least, most):
    times = []

    def answer(prompt):
        times.append(time.monotonic())
        return (503, b"", {name: value}) if len(times) == 1 else "yes"

    teacher_server.answer = answer
    assert ask(teacher_server, max_retries=1).text == "yes"
    assert least <= times[1] - times[0] < most + 2  # on a busy machine


def test_an_endpoint_that_asks_to_wait_for_an_hour(teacher_server):
    teacher_server.answer = lambda prompt: (429, b"{}", {"retry-after": "3600"})
    assert isinstance(ask(teacher_server, max_retries=3), Failure)
    assert len(teacher_server.prompts) == 1


def test_another_endpoint_is_sent_no_key(teacher_server):
    other = scripted_teacher.ScriptedTeacher()
    try:
        teacher_server.answer = lambda prompt: (307, b"", {"Location": f"{other.url}/chat/completions"})
        ask(teacher_server)
    finally:
        other.close()
    assert not any(other.keys)
