"""`llava-pl data convert`: conversations from one form to another, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llava_pl.app.arguments import RECORD_FORMS, OneLineArguments, parse_delimiter
from llava_pl.types import InputError

if TYPE_CHECKING:
    from llava_pl.types import Record

FORMS = (*RECORD_FORMS, "csv")

DESCRIPTION = """Write conversations about pictures in another form: LLaVA's records, which `fit` learns from,
ShareGPT's, messages as chat templates take them, or a table. What changes the meaning and a form cannot say, such as a
system message, tools or a turn's weight, is refused with its place; so are pictures that are no files of a folder.
Other fields, such as a licence, are left behind.

A table is a CSV file with the columns image, question and answer. A column id is taken as well, others are passed over.
Without an image a row is text alone. Other files are lists (.json) or lines (.jsonl); parquet is read as well.

  llava-pl data convert pictures.csv records.json --image_folder pictures
  llava-pl data convert records.json table.csv
  llava-pl data convert sharegpt.json records.json --from sharegpt
  llava-pl data convert records.json chat.jsonl --to messages"""


def main(words: Sequence[str]) -> int:
    """Convert, and return the exit status.

    Args:
        words: What follows ``llava-pl data convert``.

    Raises:
        InputError: The source is broken, says what the other form cannot, or an option is wrong.
    """
    options = make_parser().parse_args(list(words))
    form, to = options.form or _form_of(options.src), options.to or _form_of(options.dst)
    _check_table_options(options, form, to)

    from llava_pl.building.csv_records import read_table, write_table
    from llava_pl.building.record_files import check_output, convert_records, read_records, write_entries

    check_output(options.dst, "DST", is_table=to == "csv")
    of_table = {"delimiter": options.delimiter or ",", "joins_turns": options.turns}
    records: Iterable[Record]
    pictures = ""
    if form == "csv":
        records = read_table(options.src, options.image_folder, **of_table)
        pictures = f", {len({name for record in records for name in record.images}):,} pictures"
    else:
        records = read_records(options.src, form)
    if to == "csv":
        number = write_table(options.dst, records, options.src, **of_table)
    else:
        number = write_entries(options.dst, convert_records(records, to, options.src))
    sys.stdout.write(f"wrote {options.dst}: {number:,} records{pictures}\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl data convert", usage="llava-pl data convert SRC DST [options]", description=DESCRIPTION
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="file to read")
    parser.add_argument("dst", metavar="DST", type=Path, help="new file")
    by_name = "by default csv if its name ends so, else llava"
    parser.add_argument("--from", dest="form", choices=FORMS, help=f"what SRC holds; {by_name}")
    parser.add_argument("--to", choices=FORMS, help=f"what DST will hold; {by_name}")
    parser.add_argument(
        "--image_folder",
        type=Path,
        metavar="FOLDER",
        help="folder that names of pictures in a table to read start from",
    )
    parser.add_argument(
        "--turns", action="store_true", help="all rows of a picture in a table are one conversation, in their order"
    )
    parser.add_argument(
        "--delimiter",
        type=parse_delimiter,
        metavar="CHAR",
        help="between two cells of a table, or the word tab; by default a comma",
    )
    return parser


def _form_of(path: Path) -> Literal["llava", "csv"]:
    return "csv" if path.suffix.lower() == ".csv" else "llava"


def _check_table_options(options: argparse.Namespace, form: str, to: str) -> None:
    """Check the options that only a table has."""
    folder = options.image_folder
    if form == "csv" and folder is None:
        raise InputError(
            f"{options.src}: expected --image_folder with it, the folder that names of pictures start from"
        )
    if form != "csv" and folder is not None:
        raise InputError(f"--image_folder: expected a table to read (--from csv), found {form}; leave the option out")
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"--image_folder: {folder}: expected a folder, found {'a file' if folder.exists() else 'nothing'}"
        )
    for option in ("turns", "delimiter"):
        if getattr(options, option) and "csv" not in (form, to):
            raise InputError(
                f"--{option}: expected a table (--from csv or --to csv), found {form} to {to}; leave the option out"
            )
