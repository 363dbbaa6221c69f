"""The score of a task inside an evaluation loop: answers come batch by batch, on any number of ranks.

In: the answers to a batch. Out: all answers in the order of the set, each question once, and their scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from llava_pl.evaluation.answers import AnswerRow
from llava_pl.evaluation.scores import Scores
from llava_pl.evaluation.task import Task
from llava_pl.types import Question


class TaskScore(Metric):
    """Scores a task over the distinct questions that were asked, the same on any number of ranks.

    A distributed sampler repeats questions to fill the last batches; answers are told apart by the place of their
    question in its set, so that none counts twice. The state is the answers themselves, written as JSON lines into a
    byte tensor: it concatenates across ranks like any other and needs no hash or code book.

    Args:
        task: What was asked.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    lines: list[Tensor]

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.add_state("lines", default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all answers."""
        super().reset()
        # torchmetrics gathers a float32 tensor from a rank that saw nothing, beside the byte tensors of the others; an
        # empty byte tensor keeps the types equal.
        self.lines.append(torch.empty(0, dtype=torch.uint8, device=self.device))

    def update(
        self, places: Sequence[int], texts: Sequence[str], scores: Sequence[dict[str, float] | None] | None = None
    ) -> None:
        """Add the answers to some questions.

        Args:
            places: The place of each question in its set.
            texts: What was answered.
            scores: The log-likelihoods of the choices that decided about each answer; None for answers in words.
        """
        chosen_by = [None] * len(texts) if scores is None else scores
        entries = zip(places, texts, chosen_by, strict=True)
        content = bytearray("".join(json.dumps(entry) + "\n" for entry in entries), encoding="ascii")
        if content:
            self.lines.append(torch.frombuffer(content, dtype=torch.uint8).to(self.device))

    def asked(self) -> list[tuple[Question, AnswerRow]]:
        """Return what was asked, with its answers: of this rank, or within ``sync_context`` of all."""
        content = bytes(dim_zero_cat(self.lines).cpu().numpy())
        entries = {place: (text, scores) for place, text, scores in map(json.loads, content.splitlines())}
        questions = self.task.questions()
        asked = []
        for place, (text, scores) in sorted(entries.items()):
            question = questions[place]
            row = AnswerRow(question_id=question.id, prompt=question.prompt, text=text)
            if scores is not None:
                row["scores"] = scores
            asked.append((question, row))
        return asked

    def score(self) -> Scores:
        """Return the table of what was asked: of this rank, or within ``sync_context`` of all."""
        return self.task.score(self.asked())

    def compute(self) -> dict[str, Tensor]:
        """Return the rows of the table that have a value, and ``count`` and ``unparsed``, over all ranks."""
        values = self.score().metrics()
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}
