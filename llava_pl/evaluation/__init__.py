"""Prompts to answers to scores.

In reading order: generation, parsing, answers, scores, intervals, scienceqa, task, report. Beside them: chat, an answer
as it is written; looking and inside, what the model did for it.
"""

from llava_pl.evaluation.scienceqa import score_scienceqa

__all__ = ["score_scienceqa"]
