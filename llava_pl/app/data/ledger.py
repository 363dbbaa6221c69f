"""The command that shows a run's ledger: one line for each epoch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llava_pl.app.arguments import OneLineArguments
from llava_pl.ledger_file import verify_ledger

DESCRIPTION = """Prove from a run's ledger that every epoch saw every sample exactly once, across kills and other
numbers of devices. Status 1 if one did not.

  llava-pl data ledger runs/finetune_7b/TIME"""


def main(argv: Sequence[str]) -> int:
    """Print the reports of a run and return 0 when every sample was seen exactly once, else 1.

    Args:
        argv: The folder of the run.
    """
    reports = verify_ledger(make_parser().parse_args(list(argv)).run)
    for report in reports:
        state = "whole" if report.is_whole else "in part"
        verdict = "good" if report.is_good else "WRONG"
        sys.stdout.write(
            f"epoch {report.epoch} {state}, steps {report.first_step} to {report.last_step}: "
            f"{report.num_seen:,} samples seen, {report.num_missing:,} missing, {report.num_repeated:,} repeats, "
            f"{report.num_padding:,} of padding: {verdict}\n"
        )
    return 0 if all(report.is_good for report in reports) else 1


def make_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = OneLineArguments(prog="llava-pl data ledger", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="folder of the run, runs/NAME/TIME")
    return parser
