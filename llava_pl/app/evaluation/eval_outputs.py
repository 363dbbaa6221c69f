"""What `llava-pl eval` gives out: the report in the terminal, and the files that were asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from PIL import Image

from llava_pl.app.arguments import check_place
from llava_pl.data.picture_files import find_picture, load_image
from llava_pl.evaluation.report import Answered, Report, build_report
from llava_pl.evaluation.report_html import report_html
from llava_pl.evaluation.report_markdown import report_markdown
from llava_pl.evaluation.report_terminal import print_report
from llava_pl.evaluation.task import Task
from llava_pl.types import InputError, Question
from llava_pl.whole_file import whole_file

KINDS = {"markdown": "the tables", "html": "a page with examples", "json": "scores and readings"}


def add_outputs(parser: ArgumentParser) -> None:
    """Add the options of the files to write."""
    for kind, what in KINDS.items():
        parser.add_argument(f"--{kind}", metavar="FILE", help=f"Write {what} here.")
    parser.add_argument("--examples", type=int, default=24, metavar="N", help="Examples on the page.")


def check_outputs(options: Namespace, *, further: Sequence[str] = (), inputs: Sequence[str] = ()) -> None:
    """Check that the files can be written, before the work of which they are the result.

    Args:
        options: Of `add_outputs`, and others.
        further: Other options that name files to write.
        inputs: Files that are read, and folders.

    Raises:
        InputError: One of them cannot, is another one, too, or lies in a folder that is read.
    """
    if options.examples < 0:
        raise InputError(f"--examples: expected at least 0, found {options.examples}")
    taken = {Path(name).resolve() for name in inputs}
    for name in (*KINDS, *further):
        if not options[name]:
            continue
        path = Path(options[name])
        check_place(path, f"--{name}")
        is_there = path.exists() and not taken.isdisjoint(path.resolve().parents)
        if is_there or path.resolve() in taken:
            raise InputError(f"--{name}: {path}: expected a file of its own, found one that is read or written, too")
        taken.add(path.resolve())


def show(task: Task, answered: Sequence[Answered], options: Namespace) -> None:
    """Print the report of some sets of answers, and write the files that were asked for.

    Args:
        task: What was asked.
        answered: The first is compared with the others.
        options: Of `add_outputs`.
    """
    details = task.details({each.label: each.asked for each in answered})
    report = build_report(task.title, answered, details=details, num_examples=options.examples)
    print_report(report)
    for kind in KINDS:
        if options[kind]:
            with whole_file(Path(options[kind])) as part:
                part.write_text(_render(kind, report, answered, task), encoding="utf-8")
            sys.stdout.write(f"wrote {options[kind]}\n")


def _render(kind: str, report: Report, answered: Sequence[Answered], task: Task) -> str:
    if kind == "markdown":
        return report_markdown(report)
    if kind == "json":
        return json.dumps({each.label: _as_json(each) for each in answered}, indent=2) + "\n"

    def load_picture(question: Question) -> Image.Image | None:
        if question.image is None or task.image_folder is None:
            return None
        return load_image(find_picture(task.image_folder, question.image))

    return report_html(report, load_picture)


def _as_json(answered: Answered) -> dict[str, object]:
    scores = answered.scores
    return {
        "scores": {row.name: {"value": row.value, "interval": row.interval, "count": row.count} for row in scores.rows},
        "unanswered": scores.unanswered,
        "unparsed": scores.unparsed,
        "questions": {verdict.id: {"read": verdict.reading, "credit": verdict.credit} for verdict in scores.verdicts},
        "header": answered.header,
    }
