"""`llava-pl eval TASK`: scores of saved answers, without a model and without torch.

In: answer files of this project, of the original, or of ScienceQA's kind. Out: tables in the terminal, and if asked for
as Markdown, as a page and as JSON.
"""

from __future__ import annotations

import inspect
import json
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.evaluation.eval_outputs import add_outputs, check_outputs, show
from llava_pl.app.task_parser import TaskParser
from llava_pl.evaluation.answers import find_header, header_differences, read_answers
from llava_pl.evaluation.benchmarks import TASKS, find_task
from llava_pl.evaluation.report import Answered
from llava_pl.evaluation.task import Task, describe_unused, match_answers
from llava_pl.types import InputError

HELP = f"""usage: llava-pl eval TASK --answers FILE [--answers FILE ...] [options]

Score saved answers: files of this project, of the original's scripts, and result files of
ScienceQA's kind (.json). Every score has its 95 % interval; of several files the first is compared
with each of the others, question by question.

tasks
  {", ".join(TASKS)},
  or the import path of a Task of your own

further commands
  diff           what tells two runs apart: settings, versions, order of the data, answers, scores
  judge          ScienceQA answered together with a teacher that reads no pictures, as in the paper

examples
  llava-pl eval scienceqa --root data/scienceqa --answers predictions.jsonl
  llava-pl eval mm-vet --questions FILE --answers mine.jsonl --answers theirs.jsonl

options
  -h, --help     show this page; TASK --help lists the options of a task
"""


def main(words: Sequence[str]) -> int:
    """Run an evaluation command and return its exit status.

    Args:
        words: What follows ``llava-pl eval``.

    Raises:
        InputError: The task, an option or a file is wrong.
    """
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0 if words else 2
    if words[0] == "judge":
        from llava_pl.app.evaluation.judge_command import main as judge

        return judge(words[1:])
    if words[0] == "diff":
        from llava_pl.app.evaluation.diff_command import main as diff

        return diff(words[1:])
    task_class = find_task(words[0])
    parser, names = make_parser(words[0], task_class)
    options = parser.parse_args(list(words[1:]))
    given = {name: options[name] for name in names}
    read = [str(value) for value in given.values() if isinstance(value, str | Path) and Path(value).exists()]
    check_outputs(options, further=["submission"], inputs=[*options.answers, *read])
    if options.submission and task_class.write_submission is Task.write_submission:
        raise InputError(f"--submission: {words[0]} has no file of its own; its answers are the answer file")
    task = task_class(**given)
    answered = score_files(task, options.answers)
    show(task, answered, options)
    if options.submission:
        task.write_submission(Path(options.submission), answered[0].asked)
        sys.stdout.write(f"wrote {options.submission}\n")
    return 0


def make_parser(name: str, task_class: type[Task]) -> tuple[TaskParser, list[str]]:
    """Return the options of a task, and the names of its own."""
    summary = (task_class.__doc__ or "").strip().partition("\n")[0]
    parser = TaskParser(
        prog=f"llava-pl eval {name}",
        usage=f"llava-pl eval {name} --answers FILE [--answers FILE ...] [options]",
        description=summary,
        epilog=f"example\n  llava-pl eval {name} {_required(task_class)}--answers mine.jsonl",
    )
    parser.add_argument(
        "--answers",
        action="append",
        required=True,
        metavar="FILE",
        help="Answers to score; may be given several times.",
    )
    add_outputs(parser)
    parser.add_argument(
        "--submission", metavar="FILE", help="Write what the benchmark's server or script reads, of the first answers."
    )
    try:
        return parser, parser.add_class_arguments(task_class)
    except ArgumentError as error:
        raise InputError(f"eval {name}: {error}; choose another name for this parameter of the task") from error


def _required(task_class: type[Task]) -> str:
    """Return what a task cannot do without, as words of an example."""
    parameters = inspect.signature(task_class).parameters.values()
    names = [each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
    return "".join(f"--{name} PATH " for name in names)


def score_files(task: Task, files: Sequence[str]) -> list[Answered]:
    """Return the scores of answer files, each under its name, or under its path where two have the same name.

    Args:
        task: What was asked.
        files: In order.

    Raises:
        InputError: A file cannot be read, or its answers are to other questions.
    """
    names = [Path(file).stem for file in files]
    if twice := next((file for file in files if files.count(file) > 1), None):
        raise InputError(f"--answers: expected each file once, found {twice} again")
    questions, answered = task.questions(), []
    if not questions:
        raise InputError(f"eval {task.name}: expected questions, found none; choose another split or file")
    for file, name in zip(files, names, strict=True):
        rows = read_answers(file)
        if not rows:
            raise InputError(f"{file}: expected answers, found none")
        if len({json.dumps(row["metadata"], sort_keys=True) for row in rows if "metadata" in row}) > 1:
            raise InputError(f"{file}: expected the answers of one run, found several heads; give each its own file")
        made_with = find_header(rows).get("answers", {})
        asked_before = made_with.get("task", task.name)
        if asked_before != task.name:
            raise InputError(
                f"{file}: expected answers to {task.name}, found those to {asked_before}, as its first line says"
            )
        asked = match_answers(questions, rows, file)
        label = name if names.count(name) == 1 else file
        notes = describe_unused(asked, rows)
        # A split may be scored of the answers to another one that holds it.
        if unlike := header_differences(made_with, {**task.settings(), "split": made_with.get("split")}):
            notes.append(f"its questions were asked otherwise than they are scored: {'; '.join(unlike)}")
        answered.append(Answered(label, asked, task.score(asked), find_header(rows), tuple(notes)))
    return answered
