"""`llava-pl data scienceqa`: ScienceQA in the forms that others read, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments
from llava_pl.data.json_files import read_json_object
from llava_pl.data.scienceqa_convert import is_parquet_folder, write_llava_json, write_official_folder
from llava_pl.types import InputError

DESCRIPTION = """Write ScienceQA as the original's training script reads it: llava_SPLIT_FORMAT.json for each split and
prompt format, byte-equal to what its converter writes. `fit` with ScienceQADataModule needs none of them.

SRC is the official folder (problems.json, pid_splits.json, images/), or one of Hugging Face's parquet files, of which
the official layout is written first.

  llava-pl data scienceqa playground/data/scienceqa converted --split train --prompt_format QCM-LEA"""


def main(words: Sequence[str]) -> int:
    """Convert, and return the exit status.

    Args:
        words: What follows ``llava-pl data scienceqa``.

    Raises:
        InputError: A folder, a split or a format is wrong.
    """
    options = make_parser().parse_args(list(words))
    root = options.src
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder, found {'a file' if root.exists() else 'nothing'}")
    if is_parquet_folder(root):
        root = options.dst
        for split, number in write_official_folder(options.src, root).items():
            sys.stdout.write(f"{split}: {number:,} problems\n")
        sys.stdout.write(f"wrote {root}\n")
    for split in options.split or read_json_object(root / "pid_splits.json"):
        for prompt_format in options.prompt_format or ["QCM-LEA"]:
            sys.stdout.write(f"wrote {write_llava_json(root, split, prompt_format, options.dst)}\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl data scienceqa", usage="llava-pl data scienceqa SRC DST [options]", description=DESCRIPTION
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="folder to read")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to write; made if need be")
    parser.add_argument(
        "--split", action="append", metavar="NAME", help="key of pid_splits.json, by default all; may be repeated"
    )
    parser.add_argument(
        "--prompt_format", action="append", metavar="FORMAT", help="such as QCM-LEA, the default; may be repeated"
    )
    return parser
