"""Guards the score: a question counted twice on two ranks, or left out, changes a published number unnoticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.evaluation.parsing import PARSERS
from llava_pl.evaluation.scienceqa import (
    ScienceQA,
    ask_again,
    compare_parsers,
    official_table,
    score_questions,
    score_scienceqa,
)
from llava_pl.types import InputError

PROBLEMS = {
    "1": {"choices": ["a", "b"], "answer": 0, "hint": "", "image": "image.png", "subject": "natural science"},
    "2": {"choices": ["a", "b"], "answer": 1, "hint": "x", "image": None, "subject": "social science"},
    "3": {"choices": ["a", "b", "c"], "answer": 2, "hint": "", "image": None, "subject": "natural science"},
    "4": {"choices": ["a", "b"], "answer": 1, "hint": "x", "image": "image.png", "subject": "natural science"},
}
SPLITS = {"test": ["1", "2", "3", "4"], "minitest": ["2", "3"]}
TEXTS = {"1": "A", "2": "B", "3": "no idea", "4": "A"}


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
        {"question_id": "1", "text": "B", "prompt": "no picture sent"},
        {"question_id": "3", "text": "C", "prompt": "<image>\nsent by mistake"},
        {"question_id": "4", "text": "B"},
    ]
    scores = {parser: score_scienceqa(PROBLEMS, SPLITS, rows, parser=parser)["IMG"] for parser in ("llava", "strict")}
    assert (scores["llava"]["correct"], scores["llava"]["count"]) == (2, 2)
    assert (scores["strict"]["correct"], scores["strict"]["count"]) == (1, 2)


def test_last_of_two_rows_counts():
    rows = [{"question_id": "1", "text": "B"}, {"question_id": "1", "text": "A"}]
    assert score_scienceqa(PROBLEMS, {"test": ["1"]}, iter(rows))["all"]["correct"] == 1
    assert score_scienceqa(PROBLEMS, {"test": ["1"]}, iter(rows[::-1]))["all"]["correct"] == 0


def test_empty_split_has_no_accuracy():
    assert score_scienceqa(PROBLEMS, {"test": []}, TEXTS)["all"]["accuracy"] is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question_id": 1.5, "text": "A"}], "answers: row 0: field 'question_id': expected a string, found 1.5"),
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


ROWS = [{"question_id": id_, "text": text} for id_, text in TEXTS.items()]


@pytest.mark.parametrize("parser", PARSERS)
@given(rows=st.permutations(ROWS), again=st.lists(st.sampled_from(ROWS)), strangers=st.lists(st.integers(5, 9)))
def test_order_repetition_and_strangers_do_not_matter(parser, rows, again, strangers):
    strange = [{"question_id": number, "text": "A"} for number in strangers]
    assert score_scienceqa(PROBLEMS, SPLITS, [*strange, *rows, *again], parser=parser) == score_scienceqa(
        PROBLEMS, SPLITS, ROWS, parser=parser
    )


@given(st.sets(st.sampled_from(sorted(TEXTS))))
def test_a_missing_answer_is_a_wrong_one(missing):
    kept = {id_: text for id_, text in TEXTS.items() if id_ not in missing}
    table = score_scienceqa(PROBLEMS, SPLITS, kept)
    right = {"1", "2"}  # of the texts above
    assert (table["all"]["correct"], table["all"]["count"]) == (len(right - missing), 4)
    assert table["all"]["unanswered"] == sorted(missing)


@given(st.sampled_from("CDEFZ"), st.sampled_from(PARSERS))
def test_a_letter_beyond_the_choices_is_wrong(letter, parser):
    table = score_scienceqa(PROBLEMS, SPLITS, {"1": letter, "2": f"The answer is {letter}."}, parser=parser)
    assert table["all"]["correct"] == 0


def test_no_answers_at_all():
    table = score_scienceqa(PROBLEMS, SPLITS, [])
    assert (table["all"]["accuracy"], table["all"]["count"], len(table["all"]["unanswered"])) == (0.0, 4, 4)


def test_official_groups_come_first_and_in_their_order():
    scores = score_questions(ask_again(PROBLEMS, SPLITS, TEXTS, "test"), "llava")
    assert [row.name for row in scores.rows] == [
        "accuracy", *(f"accuracy/{group}" for group in ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12"))
    ]  # fmt: skip
    assert scores["accuracy"].value == 50.0
    assert scores["accuracy/LAN"].value is None


def test_the_same_answers_by_each_parser():
    rows = [
        {"question_id": "1", "text": "The answer is A.", "index": 0},
        {"question_id": "2", "text": "B", "index": 0},
        {"question_id": "3", "text": "Answer: C", "index": -1},
    ]
    table = compare_parsers("mine", ask_again(PROBLEMS, SPLITS, rows, "test"))
    assert table.columns == ("parser", "all", "IMG", "unparsed")
    shown = [(row[0], row[1].split(" ")[0], row[2].split(" ")[0], row[3]) for row in table.rows]
    assert shown == [
        ("llava", "50.00", "50.00", "1"),
        ("strict", "50.00", "50.00", "1"),
        ("lenient", "75.00", "50.00", "0"),
        ("lmms-eval", "25.00", "0.00", "2"),
        ("stored", "25.00", "-", "-"),
    ]


def test_unknown_parser_is_refused_before_anything_is_read():
    with pytest.raises(InputError, match="parser: expected one of llava"):
        ScienceQA(root="nowhere", parser="mine")


def test_official_table():
    scores = score_questions(ask_again(PROBLEMS, SPLITS, TEXTS, "test"), "llava")
    table = official_table({"mine": scores})
    assert table.columns == ("answers", "NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg")
    assert table.rows == (("mine", "33.33", "100.00", "-", "50.00", "50.00", "0.00", "-", "-", "50.00"),)
