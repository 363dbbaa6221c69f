"""Scores to a report: tables, bars and examples, which the terminal, Markdown and HTML show each in its own way.

In: one or several sets of answers to the questions of a task. Out: a `Report`. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llava_pl.evaluation.answers import header_differences
from llava_pl.evaluation.intervals import Comparison, Interval, compare
from llava_pl.evaluation.scores import Asked, ScoreRow, Scores, Verdict, in_percent
from llava_pl.types import Question

TOPIC = "topic:"
NUM_LISTED = 20
"""Questions that a list shows of those that could not be read."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A set of answers to questions of a task, scored.

    Args:
        label: What it is called in a report: the name of its file, or the picture that was shown.
        asked: The questions with their answers.
        scores: What they are worth.
        header: How the answers were made, as far as that is known.
        notes: What else a reader has to know about them.
    """

    label: str
    asked: Asked
    scores: Scores
    header: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of words.

    Args:
        title: What it shows.
        columns: Heads.
        rows: As many cells each as there are columns; without any the title says it all.
        has_numbers: Whether all columns but the first are of numbers; else all are of words.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    has_numbers: bool = True

    def is_number(self, column: int) -> bool:
        """Return whether a column, counted from 0, is of numbers."""
        return self.has_numbers and column > 0


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its answer.

    Args:
        question: What was asked.
        text: What was answered.
        reading: What that says, None where it could not be read.
        credit: What that earns, None where nobody here knows.
    """

    question: Question
    text: str
    reading: str | None
    credit: float | None

    @property
    def outcome(self) -> Literal["right", "partly", "wrong", "answered"]:
        """What became of it, in a word."""
        if self.credit is None:
            return "answered"
        return "right" if self.credit == 1 else "partly" if self.credit else "wrong"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a task.

    Args:
        title: Name of the task, and of the run if there is one.
        notes: Sentences that come first: what is missing, what cannot be compared.
        tables: In order.
        bars: Scores to draw, with their intervals: those of the first set of answers.
        examples: Questions with the first set's answers.
    """

    title: str
    notes: tuple[str, ...]
    tables: tuple[ReportTable, ...]
    bars: tuple[ScoreRow, ...] = ()
    examples: tuple[Example, ...] = ()


def build_report(
    title: str, answered: Sequence[Answered], *, details: Sequence[ReportTable] = (), num_examples: int = 0
) -> Report:
    """Return the report of one or several sets of answers; further ones are compared with the first.

    Args:
        title: Its heading.
        answered: The sets.
        details: Tables of the task's own.
        num_examples: Examples that it shows, half of them right and half of them wrong if there are as many.
    """
    first = answered[0]
    topics = [row.name for row in first.scores.rows if TOPIC in row.name]
    others = [row.name for row in first.scores.rows if TOPIC not in row.name]
    tables = [_score_table("Scores, with their 95 % confidence intervals", others, answered)]
    tables.append(_comparison_table(answered))
    tables += details
    tables.append(_score_table("Topics", topics, answered))
    tables += [table for each in answered if (table := _unparsed_table(each)) is not None]
    return Report(
        title=title,
        notes=tuple(_notes(answered)),
        tables=tuple(table for table in tables if table.rows),
        bars=tuple(row for row in first.scores.rows if row.value is not None),
        examples=choose_examples(first, num_examples),
    )


def show_score(value: float | None, interval: Interval | None = None) -> str:
    """Return a score in words.

    >>> show_score(89.881, Interval(85.1, 94.04))
    '89.88 (85.10 to 94.04)'
    """
    if value is None:
        return "-"
    return f"{value:.2f}" if interval is None else f"{value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def show_difference(found: Comparison) -> tuple[str, str]:
    """Return in words how two sets of answers differ in percent, and how sure that is."""
    low, high = in_percent(found.interval)
    return (
        f"{100 * found.difference:+.2f} ({low:+.2f} to {high:+.2f})",
        f"{found.p_value:.2g} ({found.test})",
    )


def show_names(names: Sequence[str]) -> list[str]:
    """Return what rows are called in a table: by their group alone, where all are of one metric.

    >>> show_names(["accuracy", "accuracy/NAT", "accuracy/topic:biology"]), show_names(["accuracy", "f1", "f1/random"])
    (['all', 'NAT', 'biology'], ['accuracy', 'f1', 'f1/random'])
    """
    if len({name.partition("/")[0] for name in names}) > 1:
        return list(names)
    return [name.partition("/")[2].removeprefix(TOPIC) or "all" for name in names]


def _score_table(title: str, names: Sequence[str], answered: Sequence[Answered]) -> ReportTable:
    columns = ("questions", "number", *(each.label for each in answered))
    rows = []
    for name, shown in zip(names, show_names(names), strict=True):
        found = [each.scores.get(name) for each in answered]
        count = max((row.count for row in found if row is not None), default=0)
        if count:
            cells = [show_score(row.value, row.interval) if row is not None else "-" for row in found]
            rows.append((shown, f"{count:,}", *cells))
    return ReportTable(title, columns, tuple(rows))


def _comparison_table(answered: Sequence[Answered]) -> ReportTable:
    first, rows = answered[0], []
    own = {verdict.id: verdict for verdict in first.scores.verdicts if verdict.credit is not None}
    for other in answered[1:]:
        pairs = [(own[each.id], each) for each in other.scores.verdicts if each.credit is not None and each.id in own]
        pictured = [pair for pair in pairs if pair[0].picture is not None]
        if pairs:
            rows.append(_comparison_row(other.label, pairs))
        if 0 < len(pictured) < len(pairs):
            rows.append(_comparison_row(f"{other.label}, with a picture", pictured))
    return ReportTable(
        f"Difference of mean credit to {first.label}, question by question",
        ("answers", "number", "difference", "first better", "these better", "p (test)"),
        tuple(rows),
    )


def _comparison_row(label: str, pairs: Sequence[tuple[Verdict, Verdict]]) -> tuple[str, ...]:
    credits = [[verdict.credit or 0.0 for verdict in side] for side in zip(*pairs, strict=True)]
    found = compare(credits[0], credits[1], [first.cluster for first, _ in pairs])
    difference, p_value = show_difference(found)
    counts = (str(found.first_better), str(found.second_better))
    return label, f"{found.num_questions:,}", difference, *counts, p_value


def _unparsed_table(answered: Answered) -> ReportTable | None:
    unparsed = [verdict for verdict in answered.scores.every if verdict.is_unparsed]
    if not unparsed:
        return None
    rows = tuple((shorten(verdict.id, 80), shorten(verdict.text or "")) for verdict in unparsed[:NUM_LISTED])
    shown = f", the first {NUM_LISTED} of them" if len(unparsed) > NUM_LISTED else ""
    title = f"{answered.label}: {len(unparsed):,} of {len(answered.scores.every):,} could not be read{shown}"
    return ReportTable(title, ("id", "text"), rows, has_numbers=False)


def shorten(text: str, length: int = 200) -> str:
    """Return a text on one line, its middle left out where it is long: an answer comes first or last."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    half = (length - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def _notes(answered: Sequence[Answered]) -> list[str]:
    notes = []
    if not any(each.scores.rows for each in answered):
        notes.append("there is no score: what the answers are worth is said elsewhere")
    for each in answered:
        if missing := each.scores.unanswered:
            wrong = " and count as wrong" if each.scores.rows else ""
            notes.append(f"{each.label}: {len(missing):,} of the questions have no answer{wrong}")
        notes += [f"{each.label}: {note}" for note in each.notes]
        if not each.header and any(other.header for other in answered):
            notes.append(f"{each.label}: it does not say how its answers were made")
    for other in answered[1:]:
        first, second = (each.header.get("answers", {}) for each in (answered[0], other))
        if different := header_differences(first, second):
            notes.append(f"{answered[0].label} and {other.label} were not asked alike: {'; '.join(different)}")
    return notes


def choose_examples(answered: Answered, num_examples: int) -> tuple[Example, ...]:
    """Return right and wrong answers in turn, each kind spread over the set; those that could not be read are wrong."""
    by_kind: dict[bool, list[Example]] = {True: [], False: []}  # those of which nobody knows are the second kind
    for (question, row), verdict in zip(answered.asked, answered.scores.every, strict=True):
        if row is not None:
            example = Example(question, row["text"], verdict.reading, verdict.credit)
            by_kind[example.outcome == "right"].append(example)
    num_wrong = min(len(by_kind[False]), max(num_examples // 2, num_examples - len(by_kind[True])))
    wrong = _spread(by_kind[False], num_wrong)
    right = _spread(by_kind[True], min(len(by_kind[True]), num_examples - num_wrong))
    return (*wrong, *right)


def _spread(examples: Sequence[Example], number: int) -> list[Example]:
    return [examples[place * len(examples) // number] for place in range(number)]
