"""What became of each question, and the table that this adds up to: the one form in which every task is scored.

In: one `Verdict` for each question. Out: `Scores`, for the log, the terminal and reports. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum

from llava_pl.evaluation.answers import AnswerRow
from llava_pl.evaluation.intervals import Interval, mean_interval
from llava_pl.evaluation.question_file import plain_text
from llava_pl.types import Question

Asked = Sequence[tuple[Question, AnswerRow | None]]
"""Questions with what was answered, None without an answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one question.

    Args:
        id: Of the question.
        text: What was answered, None without an answer.
        reading: What the text says: a letter, yes or no, words; None where it could not be read, or there is none.
        credit: What that earns, 0 to 1; None where nobody here knows what is right.
        groups: What the question counts in, beside all.
        picture: What it is about: questions about one picture are right or wrong together.
    """

    id: str
    text: str | None
    reading: str | None
    credit: float | None
    groups: tuple[str, ...] = ()
    picture: str | None = None

    @property
    def is_unparsed(self) -> bool:
        """Whether there is an answer that says nothing."""
        return self.text is not None and self.reading is None

    @property
    def cluster(self) -> tuple[str, str]:
        """What is drawn together with it when sets are drawn anew: its picture, or itself where it has none."""
        return ("question", self.id) if self.picture is None else ("picture", self.picture)


Read = Callable[[str, Question], str | None]
"""Returns what a text says, None where it says nothing."""

Credit = Callable[[str, Question], float]
"""Returns what a reading earns, 0 to 1."""


def is_reference(reading: str, question: Question) -> float:
    """Return 1 for one of the answers that are right, else 0."""
    return float(reading in question.references)


def judge(asked: Asked, read: Read, credit: Credit | None = is_reference) -> tuple[Verdict, ...]:
    """Return what became of each question; one without an answer, or with one that says nothing, earns nothing.

    Where identifiers are those of pictures, about which there are several questions, a verdict is called by both.

    Args:
        asked: Questions with their answers.
        read: What a text says.
        credit: What that earns; None where a judge or a server elsewhere knows.
    """
    has_own_ids = len({question.id for question, _ in asked}) == len(asked)
    verdicts = []
    for question, row in asked:
        text = None if row is None else row["text"]
        reading = None if text is None else read(text, question)
        earned: float | None = 0.0
        if credit is None:
            earned = None
        elif reading is not None:
            earned = credit(reading, question)
        name = question.id if has_own_ids else f"{question.id}: {plain_text(question)}"
        verdicts.append(Verdict(name, text, reading, earned, question.categories, question.image))
    return tuple(verdicts)


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One line of a table.

    Args:
        name: What it measures, and of which group: "accuracy" of all, "accuracy/NAT".
        value: In percent unless the task says otherwise, None without a question.
        interval: Its 95 % confidence interval, None without a question.
        count: Questions in it.
    """

    name: str
    value: float | None
    interval: Interval | None
    count: int


@dataclass(frozen=True, slots=True)
class Scores:
    """A table, and what it was made of.

    Args:
        rows: The first is the score of the task.
        verdicts: One for each question, in the order of the set.
        of_answers: Where several answers make a verdict, one for each of these; else empty.
    """

    rows: tuple[ScoreRow, ...]
    verdicts: tuple[Verdict, ...]
    of_answers: tuple[Verdict, ...] = ()

    @property
    def every(self) -> tuple[Verdict, ...]:
        """One for each answer that was asked for."""
        return self.of_answers or self.verdicts

    def __getitem__(self, name: str) -> ScoreRow:
        """Return a row by its name.

        Raises:
            KeyError: There is none of that name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def get(self, name: str) -> ScoreRow | None:
        """Return a row by its name, None if there is none."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def unparsed(self) -> list[str]:
        """The questions whose answer says nothing."""
        return [verdict.id for verdict in self.every if verdict.is_unparsed]

    @property
    def unanswered(self) -> list[str]:
        """The questions without an answer."""
        return [verdict.id for verdict in self.every if verdict.text is None]

    def metrics(self) -> dict[str, float]:
        """Return what goes into a log: the rows that have a value, and how many questions there were and unparsed."""
        values = {row.name: row.value for row in self.rows if row.value is not None}
        return values | {"count": len(self.verdicts), "unparsed": len(self.unparsed)}


def scored_rows(asked: Asked, scores: Scores) -> list[tuple[Question, AnswerRow]]:
    """Return the answers with what became of each, and the picture that it is about, beside their questions."""
    scored = []
    for (question, row), verdict in zip(asked, scores.every, strict=True):
        if row is None:
            continue
        found = AnswerRow(**row, read=verdict.reading)
        if verdict.credit is not None:
            found["credit"] = verdict.credit
        if verdict.picture is not None:
            found["image"] = verdict.picture
        scored.append((question, found))
    return scored


def score_means(verdicts: Iterable[Verdict], *, metric: str = "accuracy", groups: Sequence[str] = ()) -> Scores:
    """Return the mean credit of all questions and of each group, in percent; no rows where no credit is known.

    Args:
        verdicts: The last of equal ids counts.
        metric: Name of the rows.
        groups: Come first, in this order, whether or not they have a question; the others follow as they are met.

    >>> scores = score_means([Verdict("7", "A", "A", 1.0, ("NAT",)), Verdict("8", "A", "A", 0.0)], groups=["IMG"])
    >>> [(row.name, row.value, row.count) for row in scores.rows]
    [('accuracy', 50.0, 2), ('accuracy/IMG', None, 0), ('accuracy/NAT', 100.0, 1)]
    """
    kept = tuple({verdict.id: verdict for verdict in verdicts}.values())
    if kept and all(verdict.credit is None for verdict in kept):
        return Scores((), kept)
    members: dict[str, list[Verdict]] = {metric: [], **{f"{metric}/{group}": [] for group in groups}}
    for verdict in kept:
        members[metric].append(verdict)
        for group in dict.fromkeys(verdict.groups):
            members.setdefault(f"{metric}/{group}", []).append(verdict)
    return Scores(tuple(mean_row(name, own) for name, own in members.items()), kept)


def mean_row(name: str, verdicts: Sequence[Verdict]) -> ScoreRow:
    """Return the mean credit of some questions as a line in percent."""
    known = [(verdict.credit, verdict.cluster) for verdict in verdicts if verdict.credit is not None]
    if not known:
        return ScoreRow(name, None, None, 0)
    credits, clusters = zip(*known, strict=True)
    interval = mean_interval(credits, clusters)
    assert interval is not None
    return ScoreRow(name, fsum(credits) / len(credits) * 100, in_percent(interval), len(credits))


def in_percent(interval: Interval) -> Interval:
    """Return an interval of shares in percent."""
    return Interval(*(100 * bound for bound in interval))
