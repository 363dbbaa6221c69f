"""`llava-pl demo`: words in, exit status out; the help page is answered without torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments
from llava_pl.types import InputError

DESCRIPTION = """Train and evaluate a small LLaVA on drawn pictures, in about five minutes on two cores.

  llava-pl demo
  llava-pl demo --folder /tmp/demo --seed 1"""


def main(words: Sequence[str]) -> int:
    """Run the demo and return its exit status.

    Args:
        words: What follows ``llava-pl demo``.

    Raises:
        InputError: The configuration files of the repository are not at hand, or an option is wrong.
    """
    options = make_parser().parse_args(list(words))
    if options.seed < 0:
        raise InputError(f"--seed: expected at least 0, found {options.seed}")
    if options.folder.exists() and not options.folder.is_dir():
        raise InputError(f"--folder: {options.folder}: expected a folder or a new name, found a file")

    from llava_pl.demo import run  # not at the top: its imports take seconds

    if not run.CONFIGS.is_dir():
        raise InputError(f"{run.CONFIGS}: no such folder; run the demo from a checkout of the repository")
    run.run_demo(options.folder, options.seed)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(prog="llava-pl demo", description=DESCRIPTION)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="where everything goes (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of data, parts and training, at least 0 (%(default)s)"
    )
    return parser
