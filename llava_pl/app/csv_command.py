"""`llava-pl data csv`: a table of pictures, questions and answers to records, words in, exit status out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.types import InputError
from llava_pl.whole_file import whole_file

DESCRIPTION = """Write the records that `fit` learns from, of a CSV file with the columns image, question and answer. A
column id is taken as well, others are passed over. Without an image a row is text alone.

  llava-pl data csv pictures.csv --image-folder pictures --output records.json"""


def main(words: Sequence[str]) -> int:
    """Convert, and return the exit status.

    Args:
        words: What follows ``llava-pl data csv``.

    Raises:
        InputError: The table, a picture's name or the place of the result is wrong.
    """
    options = make_parser().parse_args(list(words))
    check_place(options.output, "--output")
    if options.output.exists():
        raise InputError(f"--output: {options.output}: expected a new file, found one; choose another name")
    if options.output.suffix.lower() in (".jsonl", ".ndjson", ".parquet"):
        raise InputError(f"--output: {options.output}: expected a name for a JSON list (.json); choose another name")
    if not options.image_folder.is_dir():
        found = "a file" if options.image_folder.exists() else "nothing"
        raise InputError(f"--image-folder: {options.image_folder}: expected a folder, found {found}")

    from llava_pl.data.csv_records import convert_csv

    records = convert_csv(options.csv, options.image_folder, delimiter=options.delimiter, joins_turns=options.turns)
    with whole_file(options.output) as part:
        part.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    num_pictures = len({record["image"] for record in records if "image" in record})
    sys.stdout.write(f"wrote {options.output}: {len(records):,} records, {num_pictures:,} pictures\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl data csv",
        usage="llava-pl data csv CSV --image-folder FOLDER --output FILE [options]",
        description=DESCRIPTION,
    )
    parser.add_argument("csv", metavar="CSV", type=Path, help="file to read")
    parser.add_argument(
        "--image-folder",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder that the names of pictures start from",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="new file of records (.json)")
    parser.add_argument(
        "--turns", action="store_true", help="make one conversation of all rows of a picture, in their order"
    )
    parser.add_argument(
        "--delimiter", type=_delimiter, default=",", metavar="CHAR", help="between two cells, or the word tab (,)"
    )
    return parser


def _delimiter(text: str) -> str:
    character = "\t" if text == "tab" else text
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character or the word tab, found {text!r}")
    return character
