"""`llava-pl eval diff`: what tells two runs apart; words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.app.evaluation.run_diff import compare_runs
from llava_pl.evaluation.report_markdown import report_markdown
from llava_pl.evaluation.report_terminal import print_report
from llava_pl.types import InputError

DESCRIPTION = """Show what tells two runs apart: settings, versions, the order of the training samples, and the answers
to the same questions, with the difference of their scores beside its interval and beside what another seed would make.

  llava-pl eval diff runs/finetune_7b/A runs/finetune_7b/B --markdown diff.md
"""


def main(words: Sequence[str]) -> int:
    """Print the differences, and return the exit status.

    Args:
        words: What follows ``llava-pl eval diff``.

    Raises:
        InputError: A folder is none of a run.
    """
    options = make_parser().parse_args(list(words))
    check_place(options.markdown, "--markdown")
    runs = {run.resolve() for run in (options.first, options.second, *options.seeds)}
    if options.markdown is not None and options.markdown.exists() and runs & {*options.markdown.resolve().parents}:
        raise InputError(f"--markdown: {options.markdown}: expected a new file, found one of a run")
    report = compare_runs(options.first, options.second, options.seeds)
    print_report(report)
    if options.markdown is not None:
        options.markdown.write_text(report_markdown(report), encoding="utf-8")
        sys.stdout.write(f"wrote {options.markdown}\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(prog="llava-pl eval diff", description=DESCRIPTION)
    parser.add_argument("first", type=Path, metavar="RUN_A", help="folder of a run, runs/NAME/TIME")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="folder of another one")
    parser.add_argument(
        "--seeds", type=Path, action="append", default=[], metavar="RUN",
        help="a run as RUN_A but for its seed; may be repeated",
    )  # fmt: skip
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here, too")
    return parser
