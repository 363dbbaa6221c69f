"""`llava-pl data convert`: conversations from one form to another, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments

FORMS = ("llava", "sharegpt", "messages")

DESCRIPTION = """Write conversations about pictures in another form: LLaVA's records, ShareGPT's, or messages as chat
templates take them. Files are lists (.json) or lines (.jsonl); parquet is read as well. What a record cannot say, such
as a system message, is refused with its place.

  llava-pl data convert sharegpt.json records.json --from sharegpt
  llava-pl data convert records.json chat.jsonl --to messages"""


def main(words: Sequence[str]) -> int:
    """Convert, and return the exit status.

    Args:
        words: What follows ``llava-pl data convert``.

    Raises:
        InputError: The source is broken, or says what a record cannot.
    """
    options = make_parser().parse_args(list(words))

    from llava_pl.building.formats import write_entry
    from llava_pl.building.record_files import check_output, read_records, write_entries

    check_output(options.dst, "DST")
    records = read_records(options.src, options.form)
    number = write_entries(options.dst, (write_entry(record, options.to) for record in records))
    sys.stdout.write(f"wrote {options.dst}: {number:,} records\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl data convert", usage="llava-pl data convert SRC DST [options]", description=DESCRIPTION
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="file to read")
    parser.add_argument("dst", metavar="DST", type=Path, help="new file")
    parser.add_argument("--from", dest="form", choices=FORMS, default="llava", help="what SRC holds (%(default)s)")
    parser.add_argument("--to", choices=FORMS, default="llava", help="what DST will hold (%(default)s)")
    return parser
