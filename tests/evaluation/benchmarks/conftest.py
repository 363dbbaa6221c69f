"""Files of benchmarks, written by hand."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llava_pl.evaluation.scores import Asked, Scores
from llava_pl.evaluation.task import Task

Write = Callable[[str, Sequence[dict]], Path]


@pytest.fixture
def write_lines(tmp_path: Path) -> Write:
    """Returns a function that writes objects as JSON lines into a file of that name."""

    def write(name: str, rows: Sequence[dict]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def answer() -> Callable[[Task, Sequence[str | None]], Asked]:
    """Returns a function that gives the questions of a task texts as their answers, None for no answer."""

    def give(task: Task, texts: Sequence[str | None]) -> Asked:
        rows = [None if text is None else {"question_id": "", "text": text} for text in texts]
        return list(zip(task.questions(), rows, strict=True))

    return give


@pytest.fixture
def show() -> Callable[[Scores], dict[str, tuple[float | None, int]]]:
    """Returns a function that shows value and number of questions of each row, to what arithmetic by hand gives."""

    def numbers(scores: Scores) -> dict[str, tuple[float | None, int]]:
        return {row.name: (None if row.value is None else round(row.value, 6), row.count) for row in scores.rows}

    return numbers
