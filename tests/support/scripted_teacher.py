"""A teacher for tests, behind an endpoint of OpenAI's kind on this machine: sound, slow, unsteady or malformed."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

Rule = Callable[[dict[str, Any]], Any]
"""Of a request the text of a reply, a status to fail with, or a status, the bytes of a body, and headers if need be."""

BODIES = (b"no JSON", b"{}", b'{"choices": []}', b"[]", b'{"choices": [{"index": 0}]}')
"""Bodies that are no reply."""

TEXTS = ("", " \n", "Sure!", "Question: a?", "Answer: b.", "Question: a?\nQuestion: b?\nAnswer: c.", "\x00", "{}")
"""Replies that are no conversation."""


def slowly(rule: Rule, seconds: float) -> Rule:
    """Return a rule that takes its time."""

    def reply(request: dict[str, Any]) -> Any:
        time.sleep(seconds)
        return rule(request)

    return reply


def unsteadily(rule: Rule) -> Rule:
    """Return a rule that puts each request off at first, fails at it then, and replies to it the third time."""
    times: Counter[str] = Counter()

    def reply(request: dict[str, Any]) -> Any:
        key = json.dumps(request, sort_keys=True)
        times[key] += 1
        return {1: 429, 2: 500}.get(times[key]) or rule(request)

    return reply


class ScriptedTeacher:
    """An endpoint of OpenAI's kind on this machine, which answers from rules.

    Attributes:
        url: As clients take it.
        prompts: What it was asked last in each request, in the order of arrival.
        requests: All of each request.
        keys: What each was sent with.
        answer: Says what is said to a prompt, as a `Rule` does.
        reply: The `Rule`; by default it asks `answer`.
    """

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Any = lambda prompt: "The answer is A."
        self.reply: Rule = lambda request: self.answer(request["messages"][-1]["content"])
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                teacher.prompts.append(request["messages"][-1]["content"])
                teacher.requests.append(request)
                teacher.keys.append(self.headers.get("Authorization"))
                status, body, *headers = _as_body(teacher.reply(request))
                self.send_response(status)
                for name, value in (
                    {"retry-after-ms": "10"} if status == 429 and not headers else dict(*headers)
                ).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def completion(
    content: Any,
    finish: Any = "stop",
    usage: Any = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},  # noqa: B006  only read
) -> tuple[int, bytes]:
    """Return status and body of a reply."""
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "finish_reason": finish, "message": message}]
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "any", "choices": choices}
    return 200, json.dumps(body if usage is None else {**body, "usage": usage}).encode()


def _as_body(answer: Any) -> tuple[Any, ...]:
    if isinstance(answer, tuple):
        return answer
    if isinstance(answer, int):
        return answer, json.dumps({"error": {"message": f"status {answer}"}}).encode()
    return completion(answer)


@pytest.fixture
def teacher_server(monkeypatch) -> Iterator[ScriptedTeacher]:
    """A scripted teacher, and a key in the environment."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-that-nobody-may-see")
    server = ScriptedTeacher()
    yield server
    server.close()
