"""Answers of a whole evaluation: counted per loader, gathered from all ranks, written to files."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from llava_pl.data.question_dataset import ImageSource
from llava_pl.evaluation.answers import AnswerRow, write_answers
from llava_pl.evaluation.parsing import Parser
from llava_pl.evaluation.scienceqa import ScienceQAAccuracy
from llava_pl.types import Question


class QuestionScores(nn.Module):
    """Scores and answers of one pass over one or more loaders of questions.

    Args:
        image_sources: Which picture each loader asks with; names its metrics and its file.
        parser: How letters are read off answers.
    """

    def __init__(self, image_sources: Sequence[ImageSource], *, parser: Parser) -> None:
        super().__init__()
        self.image_sources = tuple(image_sources)
        self.metrics = nn.ModuleList([ScienceQAAccuracy(parser) for _ in image_sources])
        self.rows: list[dict[str, tuple[int, AnswerRow]]] = [{} for _ in image_sources]  # with its place in the file

    def update(
        self,
        loader: int,
        questions: Sequence[Question],
        texts: Sequence[str],
        *,
        places: Sequence[int] | None = None,
        scores: Sequence[dict[str, float]] | None = None,
    ) -> None:
        """Count the answers to some questions of a loader.

        Args:
            loader: Its number.
            questions: What was asked.
            texts: What was answered.
            places: The place of each question in its set, and so in the file; None for the order in which they come.
            scores: The log-likelihoods of the choices that decided about each answer; None for answers in words.
        """
        metric = cast("ScienceQAAccuracy", self.metrics[loader])
        metric.update(questions, texts)
        rows = self.rows[loader]
        for number, (question, text) in enumerate(zip(questions, texts, strict=True)):
            row = AnswerRow(question_id=question.id, prompt=question.prompt, text=text)
            if scores is not None:
                row["scores"] = scores[number]
            in_turn = rows[question.id][0] if question.id in rows else len(rows)
            rows[question.id] = (in_turn if places is None else places[number], row)

    def finish(self, folder: Path, *, name: str) -> dict[str, Tensor]:
        """Write one answer file per loader and return all metrics, over all ranks.

        Args:
            folder: Where the files go: ``scienceqa-{name}.jsonl``, ``scienceqa-{name}-other-image.jsonl``, ...
            name: Stage and step of the evaluation.

        Returns:
            Metrics by name; those of another image source than "own" begin with ``{source}_image/``.
        """
        values: dict[str, Tensor] = {}
        for source, metric, own in zip(self.image_sources, self.metrics, self.rows, strict=True):
            rows = _gather(own)
            if not rows:
                continue
            prefix, ending = ("", "") if source == "own" else (f"{source}_image/", f"-{source}-image")
            computed: dict[str, Tensor] = metric.compute()  # type: ignore[operator]  # ModuleList forgets the type
            values |= {prefix + key: value for key, value in computed.items()}
            if not _is_distributed() or torch.distributed.get_rank() == 0:
                write_answers(folder / f"scienceqa-{name}{ending}.jsonl", rows)
        return values


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _gather(own: dict[str, tuple[int, AnswerRow]]) -> list[AnswerRow]:
    """Return the rows of all ranks, each question once, in the order of their set."""
    gathered = [own]
    if _is_distributed():
        gathered *= torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, own)
    merged = {question: placed for rows in gathered for question, placed in rows.items()}
    return [row for _, row in sorted(merged.values(), key=itemgetter(0))]
