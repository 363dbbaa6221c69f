"""Questions to a model behind any endpoint of OpenAI's kind; what it said is kept, so that nothing is asked twice.

In: prompts by identifier, and a file of what was said before. Out: texts by identifier. Without an endpoint the file is
all there is: a step that was once run replays offline.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from llava_pl.data.json_files import append_line, cut_torn_line
from llava_pl.endpoint import Endpoint, EndpointError, Failure, Message, Reply, ask_all
from llava_pl.evaluation.answers import read_answers
from llava_pl.types import InputError

LINE_START = b'{"question_id": '
"""Of every line that is written here."""


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
        cut_torn_line(path, LINE_START)
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
    said: dict[str, str] = {}
    requests = ((name, [Message(role="user", content=prompt)]) for name, prompt in prompts.items())

    def keep(name: str, outcome: Reply | Failure) -> None:
        advance()
        if isinstance(outcome, Failure) or not outcome.text.strip():
            return  # nothing was said; it is asked anew next time
        line = {"question_id": name, "prompt": prompts[name], "text": outcome.text, "model_id": endpoint.model}
        append_line(path, json.dumps(line))
        said[name] = outcome.text

    try:
        ask_all(endpoint, requests, keep)
    except EndpointError as error:
        then = ", the same command goes on" if error.can_go_on else ""
        raise InputError(f"{error}; {len(said)} new answers are in {path}{then}") from error
    return said
