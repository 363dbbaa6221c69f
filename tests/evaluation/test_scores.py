"""Guards the table: a question that counts in the wrong group, twice, or not at all."""

from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.evaluation.scores import Verdict, is_reference, judge, mean_row, score_means, scored_rows
from llava_pl.types import Question

VERDICTS = [
    Verdict("1", "A", "A", 1.0, ("NAT", "IMG")),
    Verdict("2", "hm", None, 0.0, ("NAT",)),
    Verdict("3", None, None, 0.0, ("SOC",)),
    Verdict("4", "B", "B", 0.5, ("SOC", "IMG")),
]


def values(scores):
    return [(row.name, row.value, row.count) for row in scores.rows]


def test_rows():
    assert values(score_means(VERDICTS, groups=["SOC", "LAN"])) == [
        ("accuracy", 37.5, 4),
        ("accuracy/SOC", 25.0, 2),
        ("accuracy/LAN", None, 0),
        ("accuracy/NAT", 50.0, 2),
        ("accuracy/IMG", 75.0, 2),
    ]


def test_lists_and_log():
    scores = score_means(VERDICTS)
    assert (scores.unparsed, scores.unanswered) == (["2"], ["3"])
    assert scores.metrics() == {
        "accuracy": 37.5, "accuracy/NAT": 50.0, "accuracy/IMG": 75.0, "accuracy/SOC": 25.0, "count": 4, "unparsed": 1
    }  # fmt: skip
    assert scores["accuracy/IMG"].count == 2
    assert scores.get("accuracy/LAN") is None
    with pytest.raises(KeyError, match="LAN"):
        scores["accuracy/LAN"]


def test_interval_is_in_percent():
    row = mean_row("accuracy", [Verdict(str(n), "A", "A", float(n < 90)) for n in range(100)])
    assert (row.value, row.interval) == (90.0, pytest.approx((81.7, 94.2), abs=0.05))


def test_interval_is_over_pictures():
    """Two questions each about fifty pictures, right or wrong together: as wide as of fifty questions."""
    twice = [Verdict(str(n), "A", "A", float(n % 50 < 40), picture=f"{n % 50}.png") for n in range(100)]
    once = [replace(verdict, picture=None) for verdict in twice[:50]]
    assert astuple(mean_row("accuracy", twice))[:3] == astuple(mean_row("accuracy", once))[:3]


def test_what_nobody_here_knows_has_no_score():
    asked = [(Question("7", "?"), {"question_id": "7", "text": "a dog"}), (Question("8", "?"), None)]
    verdicts = judge(asked, lambda text, _: text, None)
    assert [(verdict.reading, verdict.credit) for verdict in verdicts] == [("a dog", None), (None, None)]
    scores = score_means(verdicts)
    assert scores.rows == ()
    assert scores.metrics() == {"count": 2, "unparsed": 0}
    assert [row for _, row in scored_rows(asked, scores)] == [{"question_id": "7", "text": "a dog", "read": "a dog"}]


def test_nothing():
    assert values(score_means([])) == [("accuracy", None, 0)]


@given(st.permutations(VERDICTS), st.lists(st.sampled_from(VERDICTS), max_size=4))
def test_order_and_repetition_do_not_matter(shuffled, again):
    expected = {row.name: row for row in score_means(VERDICTS).rows}
    assert {row.name: row for row in score_means([*shuffled, *again]).rows} == expected


def test_answers_are_judged():
    question = Question("7", "?", references=("cat", "dog"), categories=("x",))
    texts = ["Dog", "?", None, "ox"]
    asked = [(question._replace(id=str(n)), text and {"text": text}) for n, text in enumerate(texts)]
    found = judge(asked, lambda text, _: None if text == "?" else text.lower())
    assert found == (
        Verdict("0", "Dog", "dog", 1.0, ("x",)),
        Verdict("1", "?", None, 0.0, ("x",)),
        Verdict("2", None, None, 0.0, ("x",)),
        Verdict("3", "ox", "ox", 0.0, ("x",)),
    )
    assert judge(asked[:1], lambda text, _: text, lambda reading, _: 0.3)[0].credit == 0.3
    assert is_reference("cat", question) == 1.0


def test_questions_with_one_identifier_are_told_apart_by_their_words():
    asked = [(Question("1.png", f"<image>\n{n}?", image="1.png"), {"text": "a"}) for n in range(2)]
    verdicts = judge(asked, lambda text, _: text, lambda reading, question: float("0" in question.prompt))
    assert [verdict.id for verdict in verdicts] == ["1.png: 0?", "1.png: 1?"]
    assert values(score_means(verdicts)) == [("accuracy", 50.0, 2)]


def test_a_group_that_is_named_twice_counts_once():
    verdicts = [Verdict("1", "A", "A", 1.0, ("logic", "logic")), Verdict("2", "A", "A", 0.0, ("logic",))]
    assert values(score_means(verdicts)) == [("accuracy", 50.0, 2), ("accuracy/logic", 50.0, 2)]


def test_rows_tell_what_became_of_them():
    asked = [(Question(v.id, "?"), None if v.text is None else {"question_id": v.id, "text": v.text}) for v in VERDICTS]
    scores = score_means(VERDICTS)
    assert [row for _, row in scored_rows(asked, scores)] == [
        {"question_id": "1", "text": "A", "read": "A", "credit": 1.0},
        {"question_id": "2", "text": "hm", "read": None, "credit": 0.0},
        {"question_id": "4", "text": "B", "read": "B", "credit": 0.5},
    ]
