"""`llava-pl eval judge`: a model and a teacher together on ScienceQA, as in the LLaVA paper; what was asked is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from llava_pl.app.evaluation.eval_outputs import add_outputs, check_outputs, show
from llava_pl.app.task_parser import TaskParser
from llava_pl.endpoint import Endpoint
from llava_pl.evaluation.answers import AnswerRow, read_answers, write_answers
from llava_pl.evaluation.ensemble import complement, find_disagreements, teacher_prompt
from llava_pl.evaluation.report import Answered
from llava_pl.evaluation.scienceqa import ScienceQA
from llava_pl.evaluation.scores import Asked
from llava_pl.evaluation.task import match_answers
from llava_pl.evaluation.teacher import ask_teacher
from llava_pl.progress import progress_bar
from llava_pl.types import InputError

DESCRIPTION = """Score a model together with a teacher that reads no pictures (LLaVA paper, section 5.2): "complement"
takes the teacher's answer and the model's where it gives none, "judge" asks the teacher again wherever the two differ.

Without --endpoint both files of the teacher are read as they are, so that a step that was once run replays offline.
With one, what they lack is asked for and added to them at once: a run that is stopped goes on, and nothing is paid for
twice. The key is taken from OPENAI_API_KEY."""

EXAMPLE = """example
  llava-pl eval judge --root data/scienceqa --answers mine.jsonl --teacher t.jsonl --judge j.jsonl"""


def main(words: Sequence[str]) -> int:
    """Score both ensembles, and return the exit status.

    Args:
        words: What follows ``llava-pl eval judge``.

    Raises:
        InputError: A file is wrong, or the endpoint refuses.
    """
    parser, names = make_parser()
    options = parser.parse_args(list(words))
    files = [options.answers, options.teacher, options.judge]
    if len({Path(file).resolve() for file in files}) < len(files):
        raise InputError("--answers, --teacher and --judge: expected three files, found one of them twice")
    check_outputs(options, further=["output"], inputs=[*files, options.root])
    if (options.endpoint is None) != (options.model is None):
        raise InputError("--endpoint: expected together with --model, found one of them; give both or none")
    further = {field.name: options[field.name] for field in fields(Endpoint) if field.name not in ("url", "model")}
    endpoint = Endpoint(options.endpoint, options.model, **further) if options.endpoint else None

    task = ScienceQA(**{name: options[name] for name in names})
    questions, rows = task.questions(), read_answers(options.answers)
    if not rows:
        raise InputError(f"{options.answers}: expected answers, found none")
    model = match_answers(questions, rows, options.answers)
    prompts = {question.id: teacher_prompt(question) for question in questions}
    teacher = _ask("teacher", prompts, options.teacher, endpoint)
    disputed = find_disagreements(model, teacher, task.parser)
    verdicts = _ask("judge", disputed, options.judge, endpoint)

    own: dict[str, AnswerRow] = {name: AnswerRow(question_id=name, text=text) for name, text in teacher.items()}
    sets: dict[str, Asked] = {
        "model": model,
        "teacher": [(question, own.get(question.id)) for question in questions],
        "complement": complement(model, teacher, task.parser),
        "judge": complement(model, verdicts, task.parser),
    }
    show(task, [Answered(label, asked, task.score(asked)) for label, asked in sets.items()], options)
    sys.stdout.write(f"the two differ on {len(disputed):,} questions, of which {len(verdicts):,} were judged\n")
    if options.output:
        final = [
            {"question_id": row["question_id"], "prompt": row.get("prompt", ""), "text": row["text"]}
            for _, row in sets["judge"]
            if row is not None
        ]
        made_with = {"task": task.name, **task.settings(), "ensemble": files}
        write_answers(options.output, final, {"answers": made_with})
        sys.stdout.write(f"wrote {options.output}\n")
    return 0


def make_parser() -> tuple[TaskParser, list[str]]:
    """Return the options, and the names of those of the task."""
    parser = TaskParser(
        prog="llava-pl eval judge",
        usage="llava-pl eval judge --root FOLDER --answers FILE --teacher FILE --judge FILE [options]",
        description=DESCRIPTION,
        epilog=EXAMPLE,
    )
    parser.add_argument("--answers", required=True, metavar="FILE", help="Answers of the model.")
    parser.add_argument(
        "--teacher", required=True, metavar="FILE", help="Answers of the teacher to the questions alone."
    )
    parser.add_argument("--judge", required=True, metavar="FILE", help="Answers of the teacher where the two differ.")
    parser.add_argument(
        "--endpoint", metavar="URL", help="Where the teacher answers, such as http://localhost:8000/v1."
    )
    parser.add_argument("--model", metavar="NAME", help="Its name there.")
    parser.add_class_arguments(Endpoint, skip={"url", "model"})
    parser.add_argument("--output", metavar="FILE", help="Write the answers of the ensemble with the judge here.")
    add_outputs(parser)
    return parser, parser.add_class_arguments(ScienceQA)


def _ask(what: str, prompts: dict[str, str], path: str, endpoint: Endpoint | None) -> dict[str, str]:
    """Return what the teacher says, with a progress bar where it is asked."""
    if endpoint is None:
        if not Path(path).exists():
            raise InputError(f"--{what}: {path}: no such file; give one, or --endpoint and --model to ask now")
        return ask_teacher(prompts, Path(path), None, in_any_words=what == "teacher")
    with progress_bar(len(prompts), f"asking the {what}") as advance:
        said = ask_teacher(prompts, Path(path), endpoint, lambda: advance(1))
    if silent := len(prompts) - len(said):
        sys.stdout.write(f"{what}: nothing was said to {silent:,} of {len(prompts):,} prompts\n")
    return said
