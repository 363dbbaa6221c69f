"""What an evaluation in a run leaves to look at: a report for each task.

In: the answers to all sets of questions. Out: ``reports/`` in the run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning import Trainer
from PIL import Image

from llava_pl.data.question_dataset import ImageSource
from llava_pl.evaluation.report import Answered, build_report
from llava_pl.evaluation.report_html import LoadPicture, report_html
from llava_pl.evaluation.report_markdown import report_markdown
from llava_pl.evaluation.report_terminal import print_report
from llava_pl.evaluation.scores import Asked, Scores
from llava_pl.evaluation.task import Task
from llava_pl.training.wandb_report import log_to_wandb
from llava_pl.types import Question
from llava_pl.whole_file import whole_file

NUM_EXAMPLES = 24


@dataclass(frozen=True, slots=True)
class SetOfAnswers:
    """The answers to the questions of a task that were asked with one kind of picture.

    Args:
        task: What was asked.
        image_source: Which picture it was asked with.
        asked: Questions with their answers.
        scores: What they are worth.
    """

    task: Task
    image_source: ImageSource
    asked: Asked
    scores: Scores


def write_reports(trainer: Trainer, sets: Sequence[SetOfAnswers], *, name: str) -> None:
    """Write a report for each task, and print it unless the run is one of training.

    Args:
        trainer: Of the run; on its first rank.
        sets: Those of one task with further kinds of pictures are compared with the first.
        name: Stage and step.
    """
    folder = Path(trainer.default_root_dir) / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    num_examples = getattr(trainer.datamodule, "report_examples", NUM_EXAMPLES)  # type: ignore[attr-defined]
    for name_of_task in dict.fromkeys(each.task.name for each in sets):
        own = [each for each in sets if each.task.name == name_of_task]
        task = own[0].task
        answered = [Answered(f"{each.image_source} image", each.asked, each.scores) for each in own]
        report = build_report(
            f"{task.title}, {name}",
            answered,
            details=task.details({each.label: each.asked for each in answered}),
            num_examples=num_examples,
        )
        load_picture = make_loader(trainer, task)
        for ending, text in ((".md", report_markdown(report)), (".html", report_html(report, load_picture))):
            with whole_file(folder / f"{task.name}-{name}{ending}") as part:
                part.write_text(text, encoding="utf-8")
        log_to_wandb(trainer, task.name, report, load_picture)
        if trainer.state.fn != "fit":
            print_report(report)


def make_loader(trainer: Trainer, task: Task) -> LoadPicture:
    """Return what loads the pictures of a task as the run does."""

    def load_picture(question: Question) -> Image.Image | None:
        encoder = getattr(trainer.datamodule, "encoder", None)  # type: ignore[attr-defined]
        if question.image is None or encoder is None:
            return None
        folder = task.image_folder or encoder.image_folder
        picture: Image.Image = replace(encoder, image_folder=folder).load_picture(question.image)
        return picture

    return load_picture
