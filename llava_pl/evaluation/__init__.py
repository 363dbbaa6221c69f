"""Prompts to answers to scores, in reading order: generation, parsing, answers, scienceqa, questions."""

from llava_pl.evaluation.scienceqa import score_scienceqa

__all__ = ["score_scienceqa"]
