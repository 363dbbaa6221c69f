"""Guards questions to an endpoint: a reply that was paid for and lost, one request too many, a key that is shown."""

import time
from itertools import count

import pytest

from llava_pl.endpoint import Endpoint, EndpointError, Message, Reply, ask_all
from llava_pl.types import InputError

REQUESTS = {
    str(n): [Message(role="system", content="Be brief."), Message(role="user", content=f"{n}?")] for n in range(6)
}


def endpoint(server, **options) -> Endpoint:
    return Endpoint(server.url, "tiny", **{"max_retries": 0, **options})


def test_replies_by_name(teacher_server):
    teacher_server.answer = lambda prompt: f"to {prompt}"
    replies = dict(ask_all(endpoint(teacher_server), REQUESTS, max_tokens=50))
    assert replies == {name: Reply(f"to {name}?", "stop", 100, 20) for name in REQUESTS}
    first = next(request for request in teacher_server.requests if request["messages"][-1]["content"] == "0?")
    assert first == {"messages": REQUESTS["0"], "model": "tiny", "temperature": 0.0, "max_tokens": 50}


def test_what_is_on_its_way_still_comes(teacher_server):
    teacher_server.answer = lambda prompt: 500 if prompt == "3?" else "yes"
    came = []
    replies = ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS)
    with pytest.raises(EndpointError, match=r"^--endpoint http://127\.0\.0\.1:\d+/v1: .*status 500") as caught:
        came.extend(name for name, _ in replies)
    assert set(came) >= {"0", "1", "2"}
    assert len(teacher_server.prompts) in (4, 5)  # one more may have been on its way
    assert "nobody-may-see" not in str(caught.value)


def test_nothing_is_sent_once_it_may_not_be(teacher_server):
    may = count()
    replies = list(ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS, may_send=lambda: next(may) < 2))
    assert [name for name, _ in replies] == ["0", "1"]
    assert len(teacher_server.prompts) == 2


def test_requests_are_spread_over_the_minute(teacher_server):
    start = time.monotonic()
    assert len(list(ask_all(endpoint(teacher_server, max_per_minute=1200), REQUESTS))) == 6
    assert time.monotonic() - start >= 5 * 60 / 1200


def test_who_stops_listening_sends_no_more(teacher_server):
    replies = ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS)
    next(replies)
    replies.close()
    assert len(teacher_server.prompts) in (1, 2)


@pytest.mark.parametrize("body", [b"no JSON", b"{}", b'{"choices": []}', b"[]"])
def test_what_is_no_reply(teacher_server, body):
    teacher_server.answer = lambda prompt: body
    with pytest.raises(EndpointError, match=r"^--endpoint http://127") as caught:
        list(ask_all(endpoint(teacher_server), {"0": REQUESTS["0"]}))
    assert "\n" not in str(caught.value)


def test_wrong_options():
    with pytest.raises(InputError, match=r"--max_per_minute: expected more than 0, found 0"):
        Endpoint("http://x", "tiny", max_per_minute=0)
