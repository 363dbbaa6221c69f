"""Risk: ways whose answers differ are timed all the same, or a way of answering breaks unseen."""

from types import SimpleNamespace

import answering
import pytest
from answering import Way, check_equal, measure
from harness import Environments


def way(**answers):
    return Way(SimpleNamespace(ask=lambda **_: {"answers": answers}), {})


def test_equal_answers_pass():
    assert check_equal({"ours": way(a="A", b="B"), "theirs": way(b="B", a="A")}) == 2


@pytest.mark.parametrize("answers", [{"1": "A", "2": "C"}, {"1": "A"}, {"1": "A", "2": "B", "3": "B"}])
def test_other_answers_stop_the_run(answers):
    ways = {"ours": way(**{"1": "A", "2": "B"}), "theirs": way(**answers)}
    with pytest.raises(SystemExit, match=r"answers that differ from those of 'ours': {'ours': 0, 'theirs': 1}"):
        check_equal(ways)


@pytest.mark.parametrize("number", ["B7", "B8"])
def test_without_a_tokenizer_there_is_a_row_that_says_so(number):
    (row,) = measure(number, Environments(), is_full=True, num_threads=1)
    assert (row.benchmark.split()[0], row.way) == (number, "ours")
    assert row.note.startswith("skipped: needs a tokenizer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "others"),
    [
        ("B7", {"transformers", "transformers, longest first", "transformers, one by one"}),
        ("B8", {"ours, every picture by itself", "transformers", "transformers, one by one"}),
    ],
)
def test_ours_and_transformers_give_the_same_answers(golden_path, number, others, monkeypatch):
    monkeypatch.setattr(answering, "BATCH_SIZE", 4)
    places = Environments(tokenizer=golden_path / "llama2_tokenizer")
    rows = {row.way: row for row in measure(number, places, is_full=False, num_threads=1)}
    assert rows["ours"].ratio is None
    assert {name for name, row in rows.items() if row.ratio} == others
    assert {name for name, row in rows.items() if row.note} == ({"original, one by one"} if number == "B7" else set())
