"""Guards many questions to an endpoint: a reply that was paid for and lost, one request too many."""

import threading
import time
from itertools import count

import pytest
import scripted_teacher

from llava_pl.endpoint import Endpoint, EndpointError, Failure, Message, Reply, ask_all
from llava_pl.endpoint.ask import MAX_FAILED_IN_A_ROW

REQUESTS = {
    str(n): [Message(role="system", content="Be brief."), Message(role="user", content=f"{n}?")] for n in range(6)
}
MANY = {str(n): REQUESTS["0"] for n in range(100)}


def endpoint(server, **options) -> Endpoint:
    return Endpoint(server.url, "tiny", **{"max_retries": 0, **options})


class Allowed:
    """Allows so many requests, and keeps what is told of them."""

    def __init__(self, number):
        self.left, self.told = iter([True] * number), []

    def may_send(self):
        return next(self.left, False)

    def settle(self, outcome):
        self.told.append(outcome)


def ask(server, *, requests=REQUESTS, allowance=None, max_tokens=None, **options) -> dict[str, Reply | Failure]:
    """Ask, and return what came, in the order in which it did."""
    came: dict[str, Reply | Failure] = {}
    ask_all(endpoint(server, **options), requests.items(), came.__setitem__, allowance=allowance, max_tokens=max_tokens)
    return came


def test_replies_by_name(teacher_server):
    teacher_server.answer = lambda prompt: f"to {prompt}"
    assert ask(teacher_server, max_tokens=50) == {name: Reply(f"to {name}?", "stop", 100, 20) for name in REQUESTS}
    first = next(request for request in teacher_server.requests if request["messages"][-1]["content"] == "0?")
    assert first == {"messages": REQUESTS["0"], "model": "tiny", "temperature": 0.0, "max_tokens": 50}


@pytest.mark.parametrize("answer", [400, 500, (200, b"no JSON"), (200, b'{"choices": []}')])
def test_what_fails_for_itself_stops_no_other(teacher_server, answer):
    teacher_server.answer = lambda prompt: answer if prompt in ("1?", "3?") else "yes"
    came: dict[str, Reply | Failure] = {}
    with pytest.raises(EndpointError, match=r"/v1: 2 requests failed, the first: ") as caught:
        ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS.items(), came.__setitem__)
    assert caught.value.can_go_on
    assert list(came) == list(REQUESTS)
    assert [name for name, outcome in came.items() if isinstance(outcome, Failure)] == ["1", "3"]


@pytest.mark.parametrize("answer", [400, 500, (200, b"no JSON")])
def test_what_fails_again_and_again_is_not_asked_a_hundred_times(teacher_server, answer):
    teacher_server.answer = lambda prompt: answer
    with pytest.raises(EndpointError, match=r"/v1: 10 requests in a row failed, the last: ") as caught:
        ask(teacher_server, requests=MANY, num_at_once=1)
    assert len(teacher_server.prompts) == MAX_FAILED_IN_A_ROW == 10
    assert caught.value.can_go_on


@pytest.mark.parametrize(("status", "advice"), [(401, "check OPENAI_API_KEY"), (404, "check --endpoint and --model")])
def test_what_fails_for_all_stops_all(teacher_server, status, advice):
    teacher_server.answer = lambda prompt: status if prompt == "3?" else "yes"
    came: dict[str, Reply | Failure] = {}
    with pytest.raises(
        EndpointError, match=rf"^--endpoint http://127\.0\.0\.1:\d+/v1: .*status {status}.*; {advice}$"
    ) as caught:
        ask_all(endpoint(teacher_server, num_at_once=1), REQUESTS.items(), came.__setitem__)
    assert [type(outcome) for outcome in came.values()] == [Reply] * 3 + [Failure]
    assert len(teacher_server.prompts) == 4
    assert not caught.value.can_go_on


def test_nobody_is_there(teacher_server):
    teacher_server.close()
    with pytest.raises(EndpointError, match=r"/v1: Connection error") as caught:
        ask(teacher_server)
    assert caught.value.can_go_on


def test_nothing_is_sent_once_it_may_not_be(teacher_server):
    allowed = Allowed(2)
    came = ask(teacher_server, num_at_once=1, allowance=allowed)
    assert list(came) == ["0", "1"]
    assert len(teacher_server.prompts) == 2
    assert allowed.told == list(came.values())


def test_all_that_was_allowed_is_told(teacher_server):
    teacher_server.answer = lambda prompt: 400 if prompt == "3?" else 401 if prompt == "4?" else "yes"
    allowed = Allowed(9)
    with pytest.raises(EndpointError):
        ask(teacher_server, num_at_once=1, allowance=allowed)
    assert [type(each) for each in allowed.told] == [Reply, Reply, Reply, Failure, Failure]


def test_requests_are_spread_over_the_minute(teacher_server):
    start = time.monotonic()
    assert len(ask(teacher_server, max_per_minute=1200)) == 6
    assert time.monotonic() - start >= 5 * 60 / 1200


def test_an_endpoint_that_puts_off_and_fails_now_and_then(teacher_server):
    teacher_server.reply = scripted_teacher.unsteadily(teacher_server.reply)
    assert len(ask(teacher_server, max_retries=3)) == 6
    # Each was put off once, failed once, and was answered then.
    assert sorted(teacher_server.prompts) == sorted(f"{n}?" for n in range(6) for _ in range(3))


def test_what_is_sent_again_keeps_the_pace(teacher_server):
    teacher_server.reply = scripted_teacher.unsteadily(teacher_server.reply)
    start = time.monotonic()
    assert len(ask(teacher_server, max_retries=3, max_per_minute=1200)) == 6
    assert len(teacher_server.prompts) == 18
    assert time.monotonic() - start >= 17 * 60 / 1200


@pytest.mark.parametrize("allowed", [100, 5])
def test_messages_are_made_as_they_are_sent(teacher_server, allowed):
    made, ahead = [], []

    def make():
        for name, messages in MANY.items():
            made.append(name)
            yield name, messages

    def keep(name, reply):
        ahead.append(len(made) - len(ahead))

    ask_all(endpoint(teacher_server, num_at_once=2), make(), keep, allowance=Allowed(allowed))
    assert len(ahead) == allowed
    assert max(ahead) <= 5
    assert len(made) <= allowed + 5


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_who_cannot_keep_a_reply_sends_no_more(teacher_server, error):
    names = count()

    def keep(name, reply):
        if next(names) == 2:
            raise error

    with pytest.raises(error):
        ask_all(endpoint(teacher_server, num_at_once=1), MANY.items(), keep)
    assert len(teacher_server.prompts) == 3


@pytest.mark.parametrize("options", [{"max_per_minute": 20}, {"max_retries": 9}])
def test_an_interrupt_ends_waiting(teacher_server, options, monkeypatch):
    """The second waits for its turn, or to be sent again, when the first is answered and the user interrupts."""
    teacher_server.answer = lambda prompt: (503, b"", {"retry-after": "60"}) if prompt == "1?" else "yes"
    came, at_work = {}, threading.Event()

    def interrupted(futures, return_when):
        at_work.wait(10)
        raise KeyboardInterrupt

    def keep(name, reply):
        came[name] = reply
        at_work.set()

    monkeypatch.setattr("llava_pl.endpoint.ask.wait", interrupted)
    start = time.monotonic()
    two = [(name, REQUESTS[name]) for name in "01"]
    with pytest.raises(KeyboardInterrupt):
        ask_all(endpoint(teacher_server, num_at_once=2, **options), two, keep)
    assert time.monotonic() - start < 3  # a turn comes after three seconds
    assert list(came) == ["0"]
