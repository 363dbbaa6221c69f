"""`llava-pl data split`: records that are held back, and the others, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_pl.app.arguments import RECORD_FORMS, OneLineArguments
from llava_pl.types import InputError

if TYPE_CHECKING:
    from llava_pl.building.split import PictureGroups

DESCRIPTION = """Hold back the records of some pictures, drawn from the pictures' names alone, and write each record as
it was read. All that is asked about a picture is on one side: pictures that a record shows together stay together, and
their least name decides; without a picture, the record's id. Of a file that has grown, all that was held back still
is, unless a new record shows its picture beside others.

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

    from llava_pl.building.formats import find_pictures
    from llava_pl.building.record_files import check_output, read_forms, write_sides
    from llava_pl.building.split import PictureGroups

    outputs = {"--train": options.train, "--val": options.val}
    is_new = all(path.exists() for path in outputs.values())  # one alone may be what a kill has left: see write_sides
    for option, path in outputs.items():
        check_output(path, option, is_new=is_new or path.resolve() == options.src.resolve())
    if options.train.resolve() == options.val.resolve():
        raise InputError(f"--val: {options.val}: expected another file than --train, found the same")
    groups = PictureGroups()
    for where, _, entry in read_forms(options.src):
        groups.join(find_pictures(entry, options.form, where))

    numbers = write_sides({path: _read_side(options, groups, option) for option, path in outputs.items()})
    for path, number in zip(outputs.values(), numbers, strict=True):
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
    parser.add_argument(
        "--from", dest="form", choices=RECORD_FORMS, default="llava", help="what SRC holds (%(default)s)"
    )
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="new file, of the others")
    parser.add_argument("--val", type=Path, required=True, metavar="FILE", help="new file, of what is held back")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (%(default)s)")
    return parser


def _read_side(options: argparse.Namespace, groups: PictureGroups, side: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of a side, which is called by its option."""
    from llava_pl.building.formats import find_pictures
    from llava_pl.building.record_files import read_forms
    from llava_pl.building.split import is_held_back

    others: set[str] = set()
    is_empty = True
    for where, name, entry in read_forms(options.src):
        names = find_pictures(entry, options.form, where)
        key = groups.least(names[0]) if names else str(name if entry.get("id") is None else entry["id"])
        if is_held_back(key, options.share, options.seed) == (side == "--val"):
            is_empty = False
            yield entry
        elif is_empty:
            others.add(key)
    if not others and is_empty:
        raise InputError(f"{options.src}: expected records, found none")
    if is_empty:
        raise InputError(
            f"{options.src}: expected records on both sides, found none for {side}, with --share {options.share} of "
            f"{len(others):,} pictures (those that are shown together, and each record without one, count once); "
            "choose another share or --seed"
        )
