"""Answers of a whole evaluation: counted per loader, gathered from all ranks, written to files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
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
        self.rows: list[dict[str, AnswerRow]] = [{} for _ in image_sources]

    def update(self, loader: int, questions: Sequence[Question], texts: Sequence[str]) -> None:
        """Count the answers to some questions of a loader."""
        metric = cast("ScienceQAAccuracy", self.metrics[loader])
        metric.update(questions, texts)
        for question, text in zip(questions, texts, strict=True):
            self.rows[loader][question.id] = AnswerRow(question_id=question.id, prompt=question.prompt, text=text)

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
                write_answers(folder / f"scienceqa-{name}{ending}.jsonl", rows.values())
        return values


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _gather(own: dict[str, AnswerRow]) -> dict[str, AnswerRow]:
    if not _is_distributed():
        return own
    gathered: list[dict[str, AnswerRow]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    # Questions were dealt to the ranks in turn; so they come back in the order of the set.
    in_turn = chain.from_iterable(zip_longest(*(rows.items() for rows in gathered)))
    return dict(item for item in in_turn if item is not None)
