"""`llava-pl data split`: records that are held back, and the others, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments
from llava_pl.types import InputError

DESCRIPTION = """Hold back the records of some pictures, drawn from the pictures' names alone: all that is asked about a
picture is on one side, and of a file that has grown, all that was held back still is.

  llava-pl data split records.json --share 0.02 --train train.json --val val.json"""


def main(words: Sequence[str]) -> int:
    """Split, and return the exit status.

    Args:
        words: What follows ``llava-pl data split``.

    Raises:
        InputError: The source is broken, or an option is wrong.
    """
    options = make_parser().parse_args(list(words))
    if not 0 < options.share < 1:
        raise InputError(f"--share: expected more than 0 and less than 1, found {options.share}")

    from llava_pl.building.formats import write_entry
    from llava_pl.building.record_files import check_output, read_records, write_entries
    from llava_pl.building.split import is_held_back

    outputs = {"--train": options.train, "--val": options.val}
    for option, path in outputs.items():
        check_output(path, option)
    if options.train.resolve() == options.val.resolve():
        raise InputError(f"--val: {options.val}: expected another file than --train, found the same")
    for option, path in outputs.items():
        side = (
            write_entry(record, "llava")
            for record in read_records(options.src)
            if is_held_back(record, options.share, options.seed) == (option == "--val")
        )
        number = write_entries(path, side)
        sys.stdout.write(f"wrote {path}: {number:,} records\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl data split",
        usage="llava-pl data split SRC --share SHARE --train FILE --val FILE [options]",
        description=DESCRIPTION,
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="file of records")
    parser.add_argument("--share", type=float, required=True, metavar="SHARE", help="of pictures that are held back")
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="new file, of the others")
    parser.add_argument("--val", type=Path, required=True, metavar="FILE", help="new file, of what is held back")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (%(default)s)")
    return parser
