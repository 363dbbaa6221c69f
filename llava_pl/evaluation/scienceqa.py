"""From answers to the ScienceQA score table.

In: what a model wrote for each question, from an answer file (`score_scienceqa`) or straight from a validation loop
(`ScienceQAAccuracy`). Out: accuracy by official category, with the answers that could not be read as a number of their
own. Both ways end in `tabulate`, so they cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from llava_pl.data.scienceqa import official_categories
from llava_pl.evaluation.answers import iterate_answers
from llava_pl.evaluation.parsing import Parser, parse_letter
from llava_pl.types import IMAGE_SLOT, InputError, Question


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


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One question with what became of its answer.

    Args:
        id: Identifier of the question.
        letter: The letter read, None when unparsed or unanswered.
        index: Index of the chosen option, -1 when there is none.
        is_correct: Whether it is the right one.
        is_answered: Whether there was an answer at all.
        categories: The groups that it counts in, beside ``all``.
    """

    id: str
    letter: str | None
    index: int
    is_correct: bool
    is_answered: bool
    categories: tuple[str, ...]


def tabulate(answers: Iterable[ScoredAnswer]) -> dict[str, CategoryScore]:
    """Return the score of each category, ``all`` and ``IMG`` always among them; the last of equal ids counts.

    >>> row = ScoredAnswer("7", "A", 0, is_correct=True, is_answered=True, categories=("NAT",))
    >>> table = tabulate([row, row])
    >>> table["all"]["accuracy"], table["NAT"]["count"], table["IMG"]["accuracy"]
    (100.0, 1, None)
    """
    table = {name: _empty_score() for name in ("all", "IMG")}
    for answer in {answer.id: answer for answer in answers}.values():
        for name in ("all", *answer.categories):
            score = table.setdefault(name, _empty_score())
            score["count"] += 1
            score["correct"] += answer.is_correct
            if not answer.is_answered:
                score["unanswered"].append(answer.id)
            elif answer.letter is None:
                score["unparsed"].append(answer.id)
    for score in table.values():
        if score["count"]:
            score["accuracy"] = score["correct"] / score["count"] * 100
    return table


def _empty_score() -> CategoryScore:
    return CategoryScore(accuracy=None, correct=0, count=0, unparsed=[], unanswered=[])


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
        parser: "llava" scores as the original does. "strict" reads letters without its traps, and counts a question
            in IMG when the problem has a picture, answered or not.

    Raises:
        InputError: A row or a problem is wrong, the split is unknown, or no answer belongs to it.
    """
    return tabulate(score_answers(problems, splits, answers, split, parser))


def score_answers(
    problems: Mapping[str, Mapping[str, Any]],
    splits: Mapping[str, Sequence[str]],
    answers: Path | str | Iterable[Mapping[str, Any]] | Mapping[str, str],
    split: str = "test",
    parser: Parser = "llava",
) -> list[ScoredAnswer]:
    """Return what became of each question of the split, in its order; see `score_scienceqa` for the arguments."""
    if split not in splits:
        raise InputError(f"unknown split {split!r}, expected one of {', '.join(splits)}")
    source = str(answers) if isinstance(answers, Path | str) else "answers"
    rows = {row["question_id"]: row for row in iterate_answers(answers)}
    ids = list(dict.fromkeys(splits[split]))
    # Unlike LLaVA: a file of another split is an error here, not a score of zero.
    if rows and ids and rows.keys().isdisjoint(ids):
        raise InputError(f"{source}: none of its {len(rows)} question ids is among the {len(ids)} of split {split!r}")
    scored = []
    for question_id in ids:
        problem, row = problems.get(question_id), rows.get(question_id)
        if not isinstance(problem, Mapping):
            raise InputError(f"problems: no problem {question_id!r}, which split {split!r} lists")
        choices, answer = problem.get("choices"), problem.get("answer")
        if not isinstance(choices, Sequence) or not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise InputError(f"problems: problem {question_id!r}: needs a list 'choices' and an index 'answer' into it")
        has_image = bool(problem.get("image")) or IMAGE_SLOT in (problem.get("prompt") or "")
        if parser == "llava":
            # LLaVA: the prompt that was sent decides, and a missing answer has none; the published IMG scores count so.
            has_image = row is not None and (IMAGE_SLOT in row["prompt"] if "prompt" in row else has_image)
        groups = [group for group in official_categories(problem) if group != "IMG"] + ["IMG"] * has_image
        text = None if row is None else row["text"]
        scored.append(_score_answer(question_id, text, len(choices), answer, tuple(groups), parser))
    return scored


def _score_answer(
    question_id: str, text: str | None, num_choices: int, answer: int, categories: tuple[str, ...], parser: Parser
) -> ScoredAnswer:
    if text is None:
        return ScoredAnswer(question_id, None, -1, is_correct=False, is_answered=False, categories=categories)
    parsed = parse_letter(text, num_choices, parser=parser)
    is_correct = parsed.index == answer
    return ScoredAnswer(question_id, parsed.letter, parsed.index, is_correct, is_answered=True, categories=categories)


class ScienceQAAccuracy(Metric):
    """Accuracy over all distinct questions, by category, the same on any number of ranks.

    A distributed sampler repeats questions to fill the last batches; rows are told apart by question id, so that no
    question counts twice. The state is the scored rows themselves, written as JSON lines into a byte tensor: it
    concatenates across ranks like any other, keeps ids and category names exactly, and needs no hash or code book.

    Args:
        parser: How a letter is read, see ``llava_pl.evaluation.parsing``.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    rows: list[Tensor]

    def __init__(self, parser: Parser = "llava") -> None:
        super().__init__()
        self.parser = parser
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all answers."""
        super().reset()
        # torchmetrics gathers a float32 tensor from a rank that saw nothing, beside the byte tensors of the others; an
        # empty byte tensor keeps the types equal.
        self.rows.append(torch.empty(0, dtype=torch.uint8, device=self.device))

    def update(self, questions: Sequence[Question], texts: Sequence[str]) -> None:
        """Add what the model wrote for some questions.

        Args:
            questions: What was asked.
            texts: What was generated for each, special tokens removed.
        """
        lines = []
        for question, text in zip(questions, texts, strict=True):
            num_choices, categories = len(question.choices), question.categories
            answer = _score_answer(question.id, text, num_choices, question.answer, categories, self.parser)
            lines.append(json.dumps(asdict(answer)) + "\n")
        content = bytearray("".join(lines), encoding="ascii")
        if content:
            self.rows.append(torch.frombuffer(content, dtype=torch.uint8).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return ``accuracy`` and ``accuracy/<category>`` in percent, ``count`` and ``unparsed`` as numbers.

        Categories without a question are absent; without any question ``accuracy`` is NaN.
        """
        content = bytes(dim_zero_cat(self.rows).cpu().numpy())
        table = tabulate(ScoredAnswer(**json.loads(line)) for line in content.splitlines())
        total = table.pop("all")
        values: dict[str, float] = {"accuracy": float("nan") if total["accuracy"] is None else total["accuracy"]}
        for name, score in sorted(table.items()):
            if score["accuracy"] is not None:
                values[f"accuracy/{name}"] = score["accuracy"]
        values |= {"count": total["count"], "unparsed": len(total["unparsed"])}
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}
