"""Questions to a model behind any endpoint of OpenAI's kind; what it said is kept, so that nothing is asked twice.

In: prompts by identifier, and a file of what was said before. Out: texts by identifier. Without an endpoint the file is
all there is: a step that was once run replays offline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from llava_pl.evaluation.answers import read_answers
from llava_pl.types import InputError

LINE_START = b'{"question_id": '
"""Of every line that is written here."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a teacher answers; its key is in `OPENAI_API_KEY` alone, never in a file or an option.

    Args:
        url: As OpenAI's clients take it, such as http://localhost:8000/v1.
        model: Name of the model there.
        num_at_once: Requests at the same time.
        max_retries: How often a request that failed or was put off is sent again, after longer and longer waits.
        temperature: Of the answers; None leaves it to the endpoint, as some models ask for.

    Raises:
        InputError: A number is too small, or the URL is none.
    """

    url: str
    model: str
    num_at_once: int = 4
    max_retries: int = 5
    temperature: float | None = 0.0

    def __post_init__(self) -> None:
        for option, value, least in (("num_at_once", self.num_at_once, 1), ("max_retries", self.max_retries, 0)):
            if value < least:
                raise InputError(f"--{option}: expected at least {least}, found {value}")
        try:
            is_url = urlsplit(self.url).scheme in ("http", "https")
        except ValueError:
            is_url = False
        if not is_url:
            raise InputError(f"--endpoint: expected a URL such as http://localhost:8000/v1, found {self.url!r}")


def ask_teacher(
    prompts: Mapping[str, str],
    path: Path,
    endpoint: Endpoint | None,
    advance: Callable[[], object] = lambda: None,
    *,
    in_any_words: bool = False,
) -> dict[str, str]:
    """Return what the teacher says, from the file as far as it goes; what is asked now is added to it at once.

    Without an endpoint the file is only read.

    Args:
        prompts: By identifier.
        path: An answer file; one that does not exist is begun.
        endpoint: Where to ask for what is missing; None to do without.
        advance: Told after each answer that came.
        in_any_words: Take answers from the file that were given to another prompt of the same identifier.

    Raises:
        InputError: The file is wrong, the client is not installed, or the endpoint refuses or cannot be reached.
    """
    if endpoint is not None and path.exists() and path.suffix != ".json":
        _cut_torn_line(path)
    said: dict[str, str] = {}
    rows = read_answers(path) if path.exists() else []
    for row in rows:
        name = row["question_id"]
        is_same = name in prompts and (in_any_words or row.get("prompt", prompts[name]) == prompts[name])
        if is_same and (endpoint is None or row.get("model_id", endpoint.model) == endpoint.model):
            said[name] = row["text"]
    if rows and prompts and not said and endpoint is None:
        raise InputError(
            f"{path}: none of its {len(rows):,} answers is to one of the {len(prompts):,} prompts; expected those of "
            "this task, asked in these words"
        )
    missing = {name: prompt for name, prompt in prompts.items() if name not in said}
    if missing and endpoint is not None:
        if path.suffix == ".json":
            raise InputError(f"{path}: answers can only be added to a file of lines (.jsonl); choose another name")
        said |= _ask(missing, path, endpoint, advance)
    return {name: said[name] for name in prompts if name in said}


def _ask(prompts: Mapping[str, str], path: Path, endpoint: Endpoint, advance: Callable[[], object]) -> dict[str, str]:
    try:
        from openai import OpenAI, OpenAIError
        from openai.types.chat import ChatCompletion
    except ImportError as error:
        raise InputError("--endpoint: needs OpenAI's client; pip install -e '.[teacher]' in the checkout") from error

    options = {} if endpoint.temperature is None else {"temperature": endpoint.temperature}
    said: dict[str, str] = {}
    failure: Exception | None = None
    try:
        client = OpenAI(base_url=endpoint.url, max_retries=endpoint.max_retries)

        def ask(prompt: str) -> str:
            messages = [{"role": "user", "content": prompt}]
            answer = client.chat.completions.create(model=endpoint.model, messages=messages, **options)  # type: ignore[call-overload]
            if not isinstance(answer, ChatCompletion) or not answer.choices or answer.choices[0].message is None:
                raise OpenAIError("expected a chat completion, found something else; does the URL end in /v1?")
            return answer.choices[0].message.content or ""

        with ThreadPoolExecutor(endpoint.num_at_once) as pool, path.open("a", encoding="utf-8") as file:
            names = {pool.submit(ask, prompt): name for name, prompt in prompts.items()}
            try:
                for future in as_completed(names):
                    if future.cancelled():
                        continue
                    try:
                        text = future.result()
                    except (OpenAIError, ValueError) as error:  # an answer that is no JSON is the latter
                        # What is on its way still comes, and was paid for; nothing else is sent.
                        failure = failure or error
                        _cancel(names)
                        continue
                    advance()
                    if not text.strip():
                        continue  # nothing was said; it is asked anew next time
                    name = names[future]
                    said[name] = text
                    line = {"question_id": name, "prompt": prompts[name], "text": text, "model_id": endpoint.model}
                    file.write(json.dumps(line) + "\n")
                    file.flush()
            finally:
                _cancel(names)
    except OpenAIError as error:  # of the client itself, such as a missing key
        failure = error
    if failure is not None:
        reason = " ".join(str(failure).split())
        raise InputError(
            f"--endpoint {_without_key(endpoint.url)}: {reason}; {len(said)} new answers are in {path}, "
            "the same command goes on"
        ) from failure
    return said


def _without_key(url: str) -> str:
    """Return where an endpoint is, without what a URL may say to it alone."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _cut_torn_line(path: Path) -> None:
    """Drop what a kill has left of a line of ours: the next one is written behind it. Any other line is left alone."""
    content = path.read_bytes()
    last = content[content.rfind(b"\n") + 1 :]
    if not last:
        return
    try:
        json.loads(last)
    except ValueError:
        if last.startswith(LINE_START[: len(last)]):
            with path.open("r+b") as file:
                file.truncate(len(content) - len(last))
    else:
        with path.open("ab") as file:
            file.write(b"\n")


def _cancel(futures: Iterable[Future[str]]) -> None:
    for future in futures:
        future.cancel()
