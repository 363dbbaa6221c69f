"""Guards that answers and questions belong together, and that a task of one's own is one file."""

import pytest

from llava_pl.evaluation.benchmarks import TASKS, find_task
from llava_pl.evaluation.scores import Asked, Scores, judge, score_means
from llava_pl.evaluation.task import Task, describe_unused, match_answers
from llava_pl.types import InputError, Question


class Echo(Task):
    """Right is who repeats the question."""

    name = "echo"

    def questions(self) -> list[Question]:
        return [Question("1", "a"), Question("2", "<image>\nb", image="b.png")]

    def score(self, asked: Asked) -> Scores:
        return score_means(judge(asked, lambda text, _: text, lambda text, question: float(text in question.prompt)))


def texts(asked):
    return [None if row is None else row["text"] for _, row in asked]


def test_a_task_of_ones_own():
    task = Echo()
    asked = match_answers(task.questions(), [{"question_id": "2", "text": "b"}, {"question_id": "1", "text": "?"}], "x")
    assert task.score(asked)["accuracy"].value == 50.0
    assert (task.title, task.settings(), list(task.details({"x": asked}))) == ("echo", {}, [])


def test_the_last_of_two_answers_counts_and_strangers_do_not():
    rows = [{"question_id": "1", "text": "x"}, {"question_id": "9", "text": "y"}, {"question_id": "1", "text": "z"}]
    assert texts(match_answers(Echo().questions(), rows, "x")) == ["z", None]


def test_equal_identifiers_are_told_apart_by_prompts():
    questions = [Question("1", "<image>\na"), Question("1", "<image>\nb")]
    rows = [{"question_id": "1", "prompt": "b", "text": "B"}, {"question_id": "1", "prompt": "<image>\na", "text": "A"}]
    assert texts(match_answers(questions, rows, "x")) == ["A", "B"]


def test_answers_with_equal_identifiers_are_told_apart_by_prompts():
    """One question for each picture, and a file of answers to all: the last of a picture is not the one."""
    rows = [{"question_id": "1", "prompt": "a", "text": "A"}, {"question_id": "1", "prompt": "c", "text": "C"}]
    assert texts(match_answers(Echo().questions(), rows, "x")) == ["A", None]
    # What was asked in other words is taken where there is no doubt.
    assert texts(match_answers(Echo().questions(), rows[1:], "x")) == ["C", None]


def test_answers_that_are_not_scored_are_told():
    rows = [{"question_id": name, "text": name} for name in ("1", "2", "1", "7", "8")]
    asked = match_answers(Echo().questions(), rows, "x")
    assert describe_unused(asked, rows) == [
        "2 of its answers are to other questions than those that are scored",
        "1 of its answers were given again further down; the last ones count",
    ]
    assert describe_unused(asked, rows[1:3]) == []


def test_questions_that_cannot_be_told_apart_are_refused():
    with pytest.raises(InputError, match="two questions have identifier '1' and one prompt"):
        match_answers([Question("1", "<image>\na"), Question("1", "a")], [], "mine.jsonl")


def test_answers_to_other_questions_are_refused():
    with pytest.raises(InputError, match=r"mine\.jsonl: none of its 1 answers is to one of the 2 questions"):
        match_answers(Echo().questions(), [{"question_id": "7", "text": "x"}], "mine.jsonl")
    assert texts(match_answers(Echo().questions(), [], "mine.jsonl")) == [None, None]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_found(name):
    found = find_task(name)
    assert issubclass(found, Task)
    assert found.name == name
    assert found.__doc__


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("popes", "eval: no task 'popes'; expected one of scienceqa, pope"),
        ("no.such.Thing", "cannot be imported"),
        ("llava_pl.types.Missing", "cannot be imported"),
        ("llava_pl.types.Question", "expected one of"),
        (".foo.Bar", "cannot be imported"),
        ("..", "cannot be imported"),
        ("broken_module.Thing", "cannot be imported"),
        ("llava_pl.evaluation.task.Task", "expected a whole Task, found one without questions, score"),
    ],
)
def test_no_task(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def (:")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message):
        find_task(name)
