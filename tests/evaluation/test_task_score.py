"""Guards: an answer that counts twice on two ranks, gets lost, or stands at another question's place."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from llava_pl.evaluation.scienceqa import score_questions
from llava_pl.evaluation.scores import Asked, Scores
from llava_pl.evaluation.task import Task
from llava_pl.evaluation.task_score import TaskScore
from llava_pl.types import Question


class Few(Task):
    name = "few"

    def questions(self) -> list[Question]:
        return [
            Question("1", "<image>\nWhich?", ("a", "b"), 0, "1.png", ("NAT", "IMG")),
            Question("2", "Which?", ("a", "b"), 1, None, ("SOC", "TXT")),
            Question("3", "Wich, \u00e9?", ("a", "b", "c"), 2, None, ("NAT", "NO")),
            Question("4", "<image>\nWhich?", ("a", "b"), 1, "4.png", ("NAT", "TXT", "IMG")),
        ]

    def score(self, asked: Asked) -> Scores:
        return score_questions(asked, "llava")


TEXTS = ["A", "B", "no idea", "A"]
EXPECTED = {
    "accuracy": 50.0,
    "accuracy/IMG": 50.0,
    "accuracy/NAT": 100 / 3,
    "accuracy/NO": 0.0,
    "accuracy/SOC": 100.0,
    "accuracy/TXT": 50.0,
    "count": 4.0,
    "unparsed": 1.0,
}


def as_numbers(values: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def updated(places: list[int]) -> TaskScore:
    score = TaskScore(Few())
    for place in places:
        score.update([place], [TEXTS[place]])
    return score


def approximately(values: dict[str, float]) -> object:
    return pytest.approx(values, rel=1e-6)  # float32


def test_all_questions():
    assert as_numbers(updated([0, 1, 2, 3]).compute()) == approximately(EXPECTED)


def test_a_question_that_comes_twice_counts_once():
    score = updated([0, 1, 2, 3, 0, 1])
    assert as_numbers(score.compute()) == approximately(EXPECTED)
    assert [question.id for question, _ in score.asked()] == ["1", "2", "3", "4"]


def test_of_two_answers_the_last_counts():
    score = TaskScore(Few())
    score.update([0], ["B"])
    score.update([0], ["A"])
    assert score.compute()["accuracy"] == 100.0
    assert [row["text"] for _, row in score.asked()] == ["A"]


def test_batches_do_not_matter():
    score = TaskScore(Few())
    score.update([2, 0, 3, 1], [TEXTS[place] for place in (2, 0, 3, 1)])
    score.update([], [])
    assert as_numbers(score.compute()) == approximately(EXPECTED)


def test_only_what_was_asked_counts():
    """A run that stops early has no answers to the rest, which are not wrong for that."""
    assert as_numbers(updated([1]).compute()) == {
        "accuracy": 100.0, "accuracy/SOC": 100.0, "accuracy/TXT": 100.0, "count": 1.0, "unparsed": 0.0
    }  # fmt: skip


def test_rows_are_in_the_order_of_the_set_and_hold_what_decided():
    score = TaskScore(Few())
    score.update([2, 0], ["C", "A"], [{"A": -2.0, "C": -1.0}, {"A": -0.5, "B": -2.0}])
    assert [row for _, row in score.asked()] == [
        {"question_id": "1", "prompt": "<image>\nWhich?", "text": "A", "scores": {"A": -0.5, "B": -2.0}},
        {"question_id": "3", "prompt": "Wich, \u00e9?", "text": "C", "scores": {"A": -2.0, "C": -1.0}},
    ]


def test_any_text_comes_back():
    score = TaskScore(Few())
    text = 'two\nlines \u2028 \u00e9 "quoted" \U0001f600'
    score.update([3], [text])
    assert score.asked()[0][1]["text"] == text


def test_states_of_two_ranks_merge():
    first, second = updated([0, 1, 2]), updated([3, 0])
    first.merge_state(second)
    assert as_numbers(first.compute()) == approximately(EXPECTED)


def test_reset_forgets():
    score = updated([0, 1])
    score.reset()
    score.update([0], ["A"])
    assert as_numbers(score.compute())["count"] == 1.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_asked():
    assert as_numbers(TaskScore(Few()).compute()) == {"count": 0.0, "unparsed": 0.0}


def test_every_question_needs_a_text():
    with pytest.raises(ValueError, match="zip"):
        TaskScore(Few()).update([0, 1], ["A"])


def run_rank(rank: int, folder: str) -> None:
    """Write down what a rank computes from overlapping shares, then with nothing on rank 1."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for name, shares in (("overlap", [[0, 1, 2], [3, 0]]), ("idle", [[0, 1, 2, 3], []])):
        score = updated(shares[rank])
        with score.sync_context():
            ids = [question.id for question, _ in score.asked()]
        Path(folder, f"{name}{rank}.json").write_text(json.dumps([as_numbers(score.compute()), ids]))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    torch.multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", ["overlap0", "overlap1", "idle0", "idle1"])
def test_two_processes_have_the_table_of_one(two_ranks: Path, name):
    values, ids = json.loads((two_ranks / f"{name}.json").read_text())
    assert values == approximately(EXPECTED)
    assert ids == ["1", "2", "3", "4"]
