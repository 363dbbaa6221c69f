"""Guards the report: a comparison of sets that were not asked alike, and numbers without their interval."""

import re
from dataclasses import replace

import pytest

from llava_pl.evaluation.report import ReportTable, build_report, choose_examples, shorten
from llava_pl.evaluation.scores import judge, score_means


def test_scores_and_topics(first):
    report = build_report("ScienceQA", [first])
    scores, topics, unparsed = report.tables
    assert scores.columns == ("questions", "number", "first.jsonl")
    assert [row[:2] for row in scores.rows] == [("all", "10"), ("NAT", "10")]
    assert re.fullmatch(r"80\.00 \(50\.00 to 92\.86\)", scores.rows[0][2])
    assert [row[0] for row in topics.rows] == ["birds"]
    assert unparsed.title == "first.jsonl: 1 of 10 could not be read"
    assert unparsed.rows == (("9", "hm|<i>"),)
    assert (report.notes, report.examples) == ((), ())
    assert [row.name for row in report.bars] == ["accuracy", "accuracy/NAT", "accuracy/topic:birds"]


def test_two_sets_are_compared_question_by_question(first, second):
    report = build_report("ScienceQA", [first, second])
    table = report.tables[1]
    assert table.title == "Difference of mean credit to first.jsonl, question by question"
    (row,) = table.rows
    assert row[:2] == ("second.jsonl", "10")
    assert row[2] == "-30.00 (-58.33 to +0.00)"
    assert row[3:] == ("3", "0", "0.25 (McNemar)")
    assert report.notes == (
        "second.jsonl: 1 of the questions have no answer and count as wrong",
        "first.jsonl and second.jsonl were not asked alike: template: 'v1' and 'plain'",
    )


def test_comparison_of_the_questions_with_a_picture(first, second):
    """What shows that a model looks is diluted by questions that have none."""
    scores = [
        replace(each.scores, verdicts=tuple(replace(v, picture=v.picture if n < 4 else None) for n, v in numbered))
        for each in (first, second)
        if (numbered := list(enumerate(each.scores.verdicts)))
    ]
    sets = [replace(each, scores=own) for each, own in zip((first, second), scores, strict=True)]
    table = build_report("ScienceQA", sets).tables[1]
    assert [row[:2] for row in table.rows] == [("second.jsonl", "10"), ("second.jsonl, with a picture", "4")]
    assert table.rows[1][3:5] == ("0", "0")


def test_what_nobody_here_knows(first):
    """No score, no difference, and nothing that is called wrong."""
    verdicts = judge(first.asked, lambda text, _: text, None)
    unknown = replace(first, scores=score_means(verdicts))
    report = build_report("MM-Vet", [unknown, unknown], num_examples=4)
    assert report.tables == ()
    assert {example.outcome for example in report.examples} == {"answered"}
    assert len(report.examples) == 4


def test_notes(first, second):
    silent = replace(second, header={}, notes=("3 of its answers are to other questions",))
    assert build_report("T", [first, silent]).notes[1:] == (
        "second.jsonl: 3 of its answers are to other questions",
        "second.jsonl: it does not say how its answers were made",
    )


def test_tables_of_the_task_stand_between(first):
    own = ReportTable("Own", ("a", "b"), (("x", "1"),))
    assert [table.title.split(",")[0] for table in build_report("T", [first], details=[own]).tables] == [
        "Scores", "Own", "Topics", "first.jsonl: 1 of 10 could not be read"
    ]  # fmt: skip


@pytest.mark.parametrize(("number", "wrong", "right"), [(0, 0, 0), (2, 1, 1), (6, 2, 4), (10, 2, 8), (50, 2, 8)])
def test_examples_are_of_both_kinds(first, number, wrong, right):
    examples = choose_examples(first, number)
    credits = [example.credit for example in examples]
    assert (credits.count(0.0), credits.count(1.0)) == (wrong, right)
    assert len({example.question.id for example in examples}) == len(examples)


def test_shortened_texts_keep_both_ends():
    text = " ".join(["word"] * 100) + " The answer is B."
    short = shorten(text)
    assert len(short) <= 200
    assert short.startswith("word")
    assert short.endswith("The answer is B.")
    assert shorten("a\n b") == "a b"
