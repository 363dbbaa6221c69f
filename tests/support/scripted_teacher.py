"""A teacher for tests, behind an endpoint of OpenAI's kind on this machine."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest


class ScriptedTeacher:
    """An endpoint of OpenAI's kind on this machine, which answers from rules.

    Attributes:
        url: As clients take it.
        prompts: What it was asked last in each request, in the order of arrival.
        requests: All of each request.
        answer: Returns the text for a prompt, the status to fail with, or the bytes of another body.
        reply: The same for a whole request; by default it asks `answer`.
    """

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.answer: Any = lambda prompt: "The answer is A."
        self.reply: Any = lambda request: self.answer(request["messages"][-1]["content"])
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                teacher.prompts.append(request["messages"][-1]["content"])
                teacher.requests.append(request)
                answer = teacher.reply(request)
                status, content = (answer, {"error": {"message": f"status {answer}"}}) if isinstance(answer, int) else (
                    200,
                    {
                        "id": "x", "object": "chat.completion", "created": 0, "model": request["model"],
                        "choices": [{"index": 0, "finish_reason": "stop",
                                     "message": {"role": "assistant", "content": answer}}],
                        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
                    },
                )  # fmt: skip
                body = answer if isinstance(answer, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def teacher_server(monkeypatch) -> Iterator[ScriptedTeacher]:
    """A scripted teacher, and a key in the environment."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-that-nobody-may-see")
    server = ScriptedTeacher()
    yield server
    server.close()
