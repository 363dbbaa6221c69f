"""From answers to the ScienceQA score table.

In: what a model wrote for each question, from a validation loop or an answer file (`ScienceQA`), or as plain values
(`score_scienceqa`). Out: accuracy by official category, with the answers that could not be read as a number of their
own. Both ways read letters alike; of the parser "llava" the second counts IMG as the original's script does, by the
prompt that was sent, the first as ScienceQA's own, by the problem. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from llava_pl.data.scienceqa import (
    OPTION_LETTERS,
    check_prompt_format,
    evaluation_question,
    official_categories,
    read_scienceqa,
)
from llava_pl.evaluation.answers import AnswerRow, iterate_answers
from llava_pl.evaluation.parsing import PARSERS, Parser, parse_letter
from llava_pl.evaluation.report import ReportTable, show_score
from llava_pl.evaluation.scores import Asked, Scores, Verdict, judge, mean_row, score_means
from llava_pl.evaluation.task import Task
from llava_pl.types import IMAGE_SLOT, InputError, Question

OFFICIAL_GROUPS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
"""The columns of ScienceQA's own table (its ``tools/evaluate_acc.py``), before the average of all questions."""


class ScienceQA(Task):
    """Multiple-choice questions of school science.

    Args:
        root: Folder with `problems.json`, `pid_splits.json` and `images/`.
        split: Key of `pid_splits.json`.
        prompt_format: Order of question, context and options, and after a dash of what the model was trained to answer,
            such as QCM-LEA or CQM-A.
        ask_letter: Ask for the option's letter alone, as LLaVA-1.5's evaluation does.
        parser: How letters are read off answers: "llava" as the original, "strict" without its traps, "lenient" also
            where they are only named, "lmms-eval" as that project.
    """

    name = "scienceqa"

    def __init__(
        self,
        *,
        root: str | Path,
        split: str = "test",
        prompt_format: str = "QCM-LEA",
        ask_letter: bool = False,
        parser: Parser = "llava",
    ) -> None:
        if parser not in PARSERS:
            raise InputError(f"parser: expected one of {', '.join(PARSERS)}, found {parser!r}")
        check_prompt_format(prompt_format)
        self.image_folder = Path(root)
        self.split = split
        self.prompt_format = prompt_format
        self.ask_letter = ask_letter
        self.parser: Parser = parser

    @property
    def title(self) -> str:
        """Name and split."""
        return f"ScienceQA, split {self.split}, parser {self.parser}"

    def questions(self) -> Sequence[Question]:
        """Return the problems of the split as LLaVA's evaluation asks them."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        problems = read_scienceqa(Path(self.image_folder or ""), self.split).values()
        return tuple(
            evaluation_question(problem, self.prompt_format, ask_letter=self.ask_letter) for problem in problems
        )

    def score(self, asked: Asked) -> Scores:
        """Return accuracy of all questions, of each official group, and of each topic."""
        return score_questions(asked, self.parser)

    def details(self, sets: Mapping[str, Asked]) -> Sequence[ReportTable]:
        """Return the official table, and what each parser makes of the same answers."""
        scores = {label: self.score(asked) for label, asked in sets.items()}
        return [official_table(scores), *(compare_parsers(label, asked) for label, asked in sets.items())]

    def settings(self) -> dict[str, object]:
        """Return what tells one way to ask from another."""
        return {"split": self.split, "prompt_format": self.prompt_format, "ask_letter": self.ask_letter}


def score_questions(asked: Asked, parser: Parser) -> Scores:
    """Return accuracy of all questions, of each official group, and of each topic.

    Args:
        asked: Questions with their answers.
        parser: How letters are read off answers.
    """
    verdicts = judge_letters(asked, parser)
    topics = sorted({group for verdict in verdicts for group in verdict.groups} - set(OFFICIAL_GROUPS))
    return score_means(verdicts, groups=[*OFFICIAL_GROUPS, *topics])


def judge_letters(asked: Asked, parser: Parser) -> tuple[Verdict, ...]:
    """Return what became of each question; see `score_questions` for the arguments."""

    def read(text: str, question: Question) -> str | None:
        return parse_letter(text, question.choices, parser=parser).letter

    return judge(asked, read, _is_right)


def _is_right(letter: str, question: Question) -> float:
    return float(OPTION_LETTERS[: len(question.choices)].find(letter) == question.answer)


def official_table(scores: Mapping[str, Scores]) -> ReportTable:
    """Return scores in the columns of ScienceQA's own table, as papers print them.

    Args:
        scores: By what the answers are called.
    """
    names = [*(f"accuracy/{group}" for group in OFFICIAL_GROUPS), "accuracy"]
    rows = tuple((label, *(show_score(each[name].value) for name in names)) for label, each in scores.items())
    return ReportTable("The official table", ("answers", *OFFICIAL_GROUPS, "Avg"), rows)


def compare_parsers(label: str, asked: Asked) -> ReportTable:
    """Return what each parser makes of the same answers: how much of a score is parsing.

    Args:
        label: What the answers are called.
        asked: Questions with their answers; where these say which option was read, that is shown as ``stored``.
    """
    rows = []
    for parser in PARSERS:
        scores = score_questions(asked, parser)
        cells = [show_score(row.value, row.interval) for row in (scores["accuracy"], scores["accuracy/IMG"])]
        rows.append((parser, *cells, str(len(scores.unparsed))))
    if any(row is not None and "index" in row for _, row in asked):
        stored = mean_row("stored", [_as_stored(question, row) for question, row in asked])
        rows.append(("stored", show_score(stored.value, stored.interval), "-", "-"))
    return ReportTable(f"{label}: the same answers by each parser", ("parser", "all", "IMG", "unparsed"), tuple(rows))


def _as_stored(question: Question, row: AnswerRow | None) -> Verdict:
    """Return what became of a question by the option that the file says was read."""
    credit = float(row is not None and row.get("index") == question.answer)
    return Verdict(question.id, None, None, credit, picture=question.image)


class CategoryScore(TypedDict):
    """The score of one category.

    ``accuracy`` is in percent, None where ``count`` is 0 (the original divides by zero there). ``unparsed`` lists the
    questions whose answer names no letter, ``unanswered`` those without an answer; both count as wrong.
    """

    accuracy: float | None
    correct: int
    count: int
    unparsed: list[str]
    unanswered: list[str]


def score_scienceqa(
    problems: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Sequence[str]],
    answers: Path | str | Iterable[Mapping[str, Any]] | Mapping[str, str],
    split: str = "test",
    parser: Parser = "llava",
) -> dict[str, CategoryScore]:
    """Return the score of each category: ``all``, ``IMG``, and every official group and topic that a question is in.

    Args:
        problems: Official problems by id, as in ``problems.json``. Only ``choices`` and ``answer`` must be there; a
            category whose field is absent is left out.
        splits: Problem ids by split, as in ``pid_splits.json``.
        answers: An answer file (JSON lines), its rows, or texts by question id. Of rows with one id the last counts;
            ids outside the split are ignored, so that one answer file scores ``test`` and ``minitest``.
        split: Which questions to score; one without an answer counts as wrong.
        parser: "llava" scores as the original does: there, the prompt that was sent decides whether a question counts
            in IMG, and one without an answer does not. By all others it counts there when the problem has a picture.

    Raises:
        InputError: A row or a problem is wrong, the split is unknown, or no answer belongs to it.
    """
    asked = ask_again(problems, splits, answers, split)
    if parser == "llava":
        asked = [(question._replace(categories=_as_sent(question, row)), row) for question, row in asked]
    table = {name: _empty_score() for name in ("all", "IMG")}
    for verdict in judge_letters(asked, parser):
        for name in ("all", *verdict.groups):
            score = table.setdefault(name, _empty_score())
            score["count"] += 1
            score["correct"] += verdict.credit == 1
            if verdict.text is None:
                score["unanswered"].append(verdict.id)
            elif verdict.reading is None:
                score["unparsed"].append(verdict.id)
    for score in table.values():
        if score["count"]:
            score["accuracy"] = score["correct"] / score["count"] * 100
    return table


def _empty_score() -> CategoryScore:
    return CategoryScore(accuracy=None, correct=0, count=0, unparsed=[], unanswered=[])


def ask_again(
    problems: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Sequence[str]],
    answers: Path | str | Iterable[Mapping[str, Any]] | Mapping[str, str],
    split: str,
) -> list[tuple[Question, AnswerRow | None]]:
    """Return each problem of a split once, with its answer; see `score_scienceqa` for arguments and errors."""
    if split not in splits:
        raise InputError(f"unknown split {split!r}, expected one of {', '.join(splits)}")
    source = str(answers) if isinstance(answers, Path | str) else "answers"
    rows = {row["question_id"]: row for row in iterate_answers(answers)}
    ids = list(dict.fromkeys(splits[split]))
    # Unlike LLaVA: a file of another split is an error here, not a score of zero.
    if rows and ids and rows.keys().isdisjoint(ids):
        raise InputError(f"{source}: none of its {len(rows)} question ids is among the {len(ids)} of split {split!r}")
    return [(_as_question(question_id, problems.get(question_id), split), rows.get(question_id)) for question_id in ids]


def _as_question(question_id: str, problem: object, split: str) -> Question:
    """Return a problem, of which no more may be known than what a score needs."""
    if not isinstance(problem, Mapping):
        raise InputError(f"problems: no problem {question_id!r}, which split {split!r} lists")
    choices, answer = problem.get("choices"), problem.get("answer")
    if not isinstance(choices, Sequence) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise InputError(f"problems: problem {question_id!r}: needs a list 'choices' and an index 'answer' into it")
    categories, prompt = official_categories(problem), problem.get("prompt") or ""
    if IMAGE_SLOT in prompt and "IMG" not in categories:
        categories += ("IMG",)
    image = problem.get("image")
    name = f"images/{problem.get('split')}/{question_id}/{image}" if image else None
    return Question(question_id, prompt, tuple(map(str, choices)), answer, name, categories)


def _as_sent(question: Question, row: AnswerRow | None) -> tuple[str, ...]:
    """Return the groups of a question as the original's script counts them."""
    # LLaVA: the prompt that was sent decides, and a missing answer has none; the published IMG scores count so.
    is_shown = row is not None and (IMAGE_SLOT in row["prompt"] if "prompt" in row else "IMG" in question.categories)
    return tuple(group for group in question.categories if group != "IMG") + ("IMG",) * is_shown
