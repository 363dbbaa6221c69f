"""A report in Weights & Biases: its examples as a table with pictures, its scores as bars."""

from __future__ import annotations

from lightning import Trainer

from llava_pl.evaluation.question_file import plain_text
from llava_pl.evaluation.report import Report, show_names
from llava_pl.evaluation.report_html import THUMBNAIL, LoadPicture
from llava_pl.training.wandb_record import wandb_loggers
from llava_pl.types import InputError


def log_to_wandb(trainer: Trainer, name: str, report: Report, load_picture: LoadPicture) -> None:
    """Log a report to the run's loggers of W&B, if it has some; nothing else is imported for it.

    Args:
        trainer: Of the run.
        name: Of the task.
        report: What to log.
        load_picture: For the examples.
    """
    loggers = wandb_loggers(trainer)
    if not loggers:
        return
    import wandb

    examples = wandb.Table(columns=["id", "picture", "question", "answer", "read", "credit"])
    for example in report.examples:
        try:
            picture = load_picture(example.question)
        except InputError:
            picture = None  # the page says so; a table of W&B has no place for words there
        if picture is not None:
            picture.thumbnail(THUMBNAIL)
        shown = None if picture is None else wandb.Image(picture)
        prompt = plain_text(example.question)
        examples.add_data(example.question.id, shown, prompt, example.text, example.reading or "", example.credit)
    scores = wandb.Table(columns=["questions", "score", "low", "high", "number"])
    names = show_names([row.name for row in report.bars])
    for name_of_row, row in zip(names, report.bars, strict=True):
        low, high = row.interval or (None, None)
        scores.add_data(name_of_row, row.value, low, high, row.count)
    for logger in loggers:
        logger.experiment.log(
            {
                f"reports/{name}/examples": examples,
                f"reports/{name}/scores": wandb.plot.bar(scores, "questions", "score", title=report.title),
            }
        )
