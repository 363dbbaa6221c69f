"""Guards the score: a question counted twice on two ranks, or left out, changes a published number unnoticed."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from llava_pl.evaluation.scienceqa import ScienceQAAccuracy, score_answers, score_scienceqa
from llava_pl.types import InputError, Question

PROBLEMS = {
    "1": {"choices": ["a", "b"], "answer": 0, "hint": "", "image": "image.png", "subject": "natural science"},
    "2": {"choices": ["a", "b"], "answer": 1, "hint": "x", "image": None, "subject": "social science"},
    "3": {"choices": ["a", "b", "c"], "answer": 2, "hint": "", "image": None, "subject": "natural science"},
    "4": {"choices": ["a", "b"], "answer": 1, "hint": "x", "image": "image.png", "subject": "natural science"},
}
SPLITS = {"test": ["1", "2", "3", "4"], "minitest": ["2", "3"]}
TEXTS = {"1": "A", "2": "B", "3": "no idea", "4": "A"}
CATEGORIES = {"1": ("NAT", "IMG"), "2": ("SOC", "TXT"), "3": ("NAT", "NO"), "4": ("NAT", "TXT", "IMG")}
QUESTIONS = [
    Question(id_, f"<image>\n{id_}?", tuple(problem["choices"]), problem["answer"], None, CATEGORIES[id_])
    for id_, problem in PROBLEMS.items()
]
EXPECTED_METRIC = {
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


def updated(questions: list[Question]) -> ScienceQAAccuracy:
    metric = ScienceQAAccuracy()
    for question in questions:
        metric.update([question], [TEXTS[question.id]])
    return metric


def test_score_by_category():
    table = score_scienceqa(PROBLEMS, SPLITS, TEXTS)
    empty = {"unparsed": [], "unanswered": []}
    assert table == {
        "all": {"accuracy": 50.0, "correct": 2, "count": 4, "unparsed": ["3"], "unanswered": []},
        "IMG": {"accuracy": 50.0, "correct": 1, "count": 2, **empty},
        "NAT": {"accuracy": 1 / 3 * 100, "correct": 1, "count": 3, "unparsed": ["3"], "unanswered": []},
        "SOC": {"accuracy": 100.0, "correct": 1, "count": 1, **empty},
        "TXT": {"accuracy": 50.0, "correct": 1, "count": 2, **empty},
        "NO": {"accuracy": 0.0, "correct": 0, "count": 1, "unparsed": ["3"], "unanswered": []},
    }


def test_ids_outside_the_split_are_ignored():
    table = score_scienceqa(PROBLEMS, SPLITS, TEXTS, split="minitest")
    assert (table["all"]["correct"], table["all"]["count"]) == (1, 2)
    assert table["IMG"] == {"accuracy": None, "correct": 0, "count": 0, "unparsed": [], "unanswered": []}


def test_question_without_an_answer():
    texts = {"1": "A", "2": "B", "3": "C"}
    for parser, image_count in (("llava", 1), ("strict", 2)):
        table = score_scienceqa(PROBLEMS, SPLITS, texts, parser=parser)
        assert (table["all"]["correct"], table["all"]["count"], table["all"]["unanswered"]) == (3, 4, ["4"])
        assert table["all"]["unparsed"] == []
        assert table["IMG"]["count"] == image_count


def test_prompt_of_the_row_decides_in_llava_mode_only():
    rows = [
        {"question_id": "1", "text": "A", "prompt": "no picture sent"},
        {"question_id": "3", "text": "C", "prompt": "<image>\nsent by mistake"},
        {"question_id": "4", "text": "B"},
    ]
    with_image = {
        parser: [row.id for row in score_answers(PROBLEMS, SPLITS, rows, parser=parser) if "IMG" in row.categories]
        for parser in ("llava", "strict")
    }
    assert with_image == {"llava": ["3", "4"], "strict": ["1", "4"]}


def test_last_of_two_rows_counts():
    rows = [{"question_id": "1", "text": "B"}, {"question_id": "1", "text": "A"}]
    assert score_scienceqa(PROBLEMS, {"test": ["1"]}, iter(rows))["all"]["correct"] == 1
    assert score_scienceqa(PROBLEMS, {"test": ["1"]}, iter(rows[::-1]))["all"]["correct"] == 0


def test_empty_split_has_no_accuracy():
    assert score_scienceqa(PROBLEMS, {"test": []}, TEXTS)["all"]["accuracy"] is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": 1, "text": "A"}], "answers: row 0: field 'question_id': expected a string, found 1"),
        ([{"question_id": "1"}], "answers: row 0: field 'text': expected a string, found nothing"),
        ([{"question_id": "1", "text": "A", "prompt": None}], "answers: row 0: field 'prompt': expected a string"),
        (["A"], "answers: row 0: expected an object, found str"),
        ({"1": 2}, "answers: entry '1': field 'text': expected a string, found 2"),
        ({"99": "A"}, "answers: none of its 1 question ids is among the 4 of split 'test'"),
    ],
)
def test_wrong_answers_are_named(rows, message):
    with pytest.raises(InputError) as caught:
        score_scienceqa(PROBLEMS, SPLITS, rows)
    assert str(caught.value).startswith(message)


def test_wrong_split_or_problem_is_named():
    with pytest.raises(InputError, match="unknown split 'val', expected one of test, minitest"):
        score_scienceqa(PROBLEMS, SPLITS, TEXTS, split="val")
    with pytest.raises(InputError, match="no problem '5', which split 'test' lists"):
        score_scienceqa(PROBLEMS, {"test": ["1", "5"]}, TEXTS)
    with pytest.raises(InputError, match="problem '1': needs a list 'choices' and an index 'answer' into it"):
        score_scienceqa({"1": {"choices": ["a"], "answer": 1}}, {"test": ["1"]}, TEXTS)


def test_metric_equals_the_score_of_the_file():
    assert as_numbers(updated(QUESTIONS).compute()) == pytest.approx(EXPECTED_METRIC, rel=1e-6)  # float32
    table = score_scienceqa(PROBLEMS, SPLITS, TEXTS)
    assert {name for name in EXPECTED_METRIC if "/" in name} == {f"accuracy/{name}" for name in table if name != "all"}


def test_metric_counts_a_question_once():
    metric = updated([*QUESTIONS, QUESTIONS[0], QUESTIONS[1]])
    assert as_numbers(metric.compute()) == pytest.approx(EXPECTED_METRIC, rel=1e-6)


def test_metric_batch_size_does_not_matter():
    metric = ScienceQAAccuracy()
    metric.update(QUESTIONS, [TEXTS[question.id] for question in QUESTIONS])
    metric.update([], [])
    assert as_numbers(metric.compute()) == pytest.approx(EXPECTED_METRIC, rel=1e-6)


def test_metric_states_of_two_ranks_merge():
    first, second = updated(QUESTIONS[:3]), updated([QUESTIONS[3], QUESTIONS[0]])
    first.merge_state(second)
    assert as_numbers(first.compute()) == pytest.approx(EXPECTED_METRIC, rel=1e-6)


def test_metric_forward_and_reset():
    metric = ScienceQAAccuracy(parser="strict")
    assert metric(QUESTIONS[:1], ["(A)"])["accuracy"] == 100.0
    assert metric(QUESTIONS[1:2], ["(A)"])["accuracy"] == 0.0
    assert metric.compute()["accuracy"] == 50.0
    metric.reset()
    metric.update(QUESTIONS[:1], ["(A)"])
    assert as_numbers(metric.compute())["count"] == 1.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metric_without_any_question():
    values = ScienceQAAccuracy().compute()
    assert sorted(values) == ["accuracy", "count", "unparsed"]
    assert torch.isnan(values["accuracy"])
    assert values["count"] == 0


def test_metric_wants_a_text_for_each_question():
    with pytest.raises(ValueError, match="zip"):
        ScienceQAAccuracy().update(QUESTIONS, ["A"])


def run_rank(rank: int, folder: str) -> None:
    """Write down what a rank computes from overlapping shares, then with nothing on rank 1."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    for name, shares in (
        ("overlap", [QUESTIONS[:3], [QUESTIONS[3], QUESTIONS[0]]]),
        ("idle", [QUESTIONS, []]),
    ):
        values = updated(shares[rank]).compute()
        Path(folder, f"{name}{rank}.json").write_text(json.dumps(as_numbers(values)))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    torch.multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", ["overlap0", "overlap1", "idle0", "idle1"])
def test_metric_over_two_processes(two_ranks: Path, name):
    assert json.loads((two_ranks / f"{name}.json").read_text()) == pytest.approx(EXPECTED_METRIC, rel=1e-6)
