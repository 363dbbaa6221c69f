"""Tests that a judge elsewhere scores: MM-Vet (Yu et al. 2023, arXiv:2308.02490), LLaVA-Bench (Liu et al. 2023)."""

from __future__ import annotations

import json
from pathlib import Path

from llava_pl.evaluation.file_task import FileTask
from llava_pl.evaluation.scores import Asked, Scores, judge, score_means


class LlavaBench(FileTask):
    """Pictures in the wild: conversation, description and reasoning, in sentences.

    Args:
        questions: The question file (questions.jsonl).
        image_folder: Where the pictures lie.
    """

    name = "llava-bench"

    def score(self, asked: Asked) -> Scores:
        """Return no score: what the answers are worth is said by a judge."""
        return score_means(judge(asked, lambda text, _: text, None))


class MmVet(LlavaBench):
    """Questions that need several skills at once, in sentences.

    Args:
        questions: The original's question file (llava-mm-vet.jsonl).
        image_folder: Where the pictures lie.
    """

    name = "mm-vet"

    def write_submission(self, path: Path, asked: Asked) -> None:
        """Write what MM-Vet's own evaluation reads: texts by ``v1_`` and the identifier."""
        texts = {self.line_of(question)["question_id"]: row["text"] for question, row in asked if row is not None}
        path.write_text(json.dumps({f"v1_{name}": text for name, text in texts.items()}, indent=2))
