"""Guards questions to an endpoint: a reply that was paid for and lost, one request too many, a key that is shown."""

import time
from itertools import count

import pytest
import scripted_teacher

from llava_pl.endpoint import Endpoint, EndpointError, Message, Reply, ask_all
from llava_pl.types import InputError

REQUESTS = {
    str(n): [Message(role="system", content="Be brief."), Message(role="user", content=f"{n}?")] for n in range(6)
}


def endpoint(server, **options) -> Endpoint:
    return Endpoint(server.url, "tiny", **{"max_retries": 0, **options})


def ask(server, *, requests=REQUESTS, may_send=lambda: True, max_tokens=None, **options) -> dict[str, Reply]:
    """Ask, and return what came, in the order in which it did."""
    came: dict[str, Reply] = {}
    ask_all(endpoint(server, **options), requests, came.__setitem__, may_send=may_send, max_tokens=max_tokens)
    return came


def test_replies_by_name(teacher_server):
    teacher_server.answer = lambda prompt: f"to {prompt}"
    assert ask(teacher_server, max_tokens=50) == {name: Reply(f"to {name}?", "stop", 100, 20) for name in REQUESTS}
    first = next(request for request in teacher_server.requests if request["messages"][-1]["content"] == "0?")
    assert first == {"messages": REQUESTS["0"], "model": "tiny", "temperature": 0.0, "max_tokens": 50}


def test_what_is_on_its_way_still_comes(teacher_server):
    teacher_server.answer = lambda prompt: 500 if prompt == "3?" else "yes"
    came: dict[str, Reply] = {}
    with pytest.raises(EndpointError, match=r"^--endpoint http://127\.0\.0\.1:\d+/v1: .*status 500") as caught:
        ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS, came.__setitem__)
    assert set(came) >= {"0", "1", "2"}
    assert len(teacher_server.prompts) in (4, 5)  # one more may have been on its way
    assert "nobody-may-see" not in str(caught.value)


def test_a_request_that_is_refused_for_itself_stops_no_other(teacher_server):
    teacher_server.answer = lambda prompt: 400 if prompt in ("1?", "3?") else "yes"
    came: dict[str, Reply] = {}
    with pytest.raises(EndpointError, match=r"/v1: 2 requests were refused, the first: .*status 400"):
        ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS, came.__setitem__)
    assert list(came) == ["0", "2", "4", "5"]


def test_what_is_refused_for_its_options_is_not_asked_a_thousand_times(teacher_server):
    teacher_server.answer = lambda prompt: 400
    with pytest.raises(EndpointError, match=r"/v1: Error code: 400"):
        ask(teacher_server, requests={str(n): REQUESTS["0"] for n in range(100)}, num_at_once=1)
    assert len(teacher_server.prompts) in (4, 5)


def test_nothing_is_sent_once_it_may_not_be(teacher_server):
    may = count()
    came = ask(teacher_server, num_at_once=1, may_send=lambda: next(may) < 2)
    assert list(came) == ["0", "1"]
    assert len(teacher_server.prompts) == 2


def test_requests_are_spread_over_the_minute(teacher_server):
    start = time.monotonic()
    assert len(ask(teacher_server, max_per_minute=1200)) == 6
    assert time.monotonic() - start >= 5 * 60 / 1200


def test_an_endpoint_that_puts_off_and_fails_now_and_then(teacher_server):
    teacher_server.reply = scripted_teacher.unsteadily(teacher_server.reply)
    assert len(ask(teacher_server, max_retries=3)) == 6
    # Each was put off once, failed once, and was answered then.
    assert sorted(teacher_server.prompts) == sorted(f"{n}?" for n in range(6) for _ in range(3))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_who_cannot_keep_a_reply_sends_no_more(teacher_server, error):
    def keep(name, reply):
        raise error

    with pytest.raises(error):
        ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS, keep)
    assert len(teacher_server.prompts) in (1, 2)


def test_a_key_that_is_sent_back_is_not_shown(teacher_server, monkeypatch):
    body = b'{"error": {"message": "a-key-that-nobody-may-see is not known"}}'
    teacher_server.answer = lambda prompt: (401, body)
    with pytest.raises(EndpointError, match=r"\[the key\] is not known") as caught:
        ask(teacher_server)
    assert "nobody-may-see" not in str(caught.value)


@pytest.mark.parametrize("body", scripted_teacher.BODIES)
def test_what_is_no_reply(teacher_server, body):
    teacher_server.answer = lambda prompt: (200, body)
    with pytest.raises(EndpointError, match=r"^--endpoint http://127") as caught:
        ask(teacher_server, requests={"0": REQUESTS["0"]})
    assert "\n" not in str(caught.value)


def test_wrong_options():
    with pytest.raises(InputError, match=r"--max_per_minute: expected more than 0, found 0"):
        Endpoint("http://x", "tiny", max_per_minute=0)
