"""`llava-pl data captions`: pictures with captions to records of stage `align`, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments, check_at_least, count_cores, parse_delimiter
from llava_pl.progress import progress_bar, show_progress
from llava_pl.types import InputError

DESCRIPTION = """Write the records of stage `align` from pictures with captions: each asks about a picture in a wording
that is drawn, and its caption is the answer. Pictures that are missing, broken, tiny or there before are left out.

SRC is a folder of pictures with NAME.txt beside each, shards of img2dataset (NAME.tar, or a folder of them), a table of
captions and pictures (.tsv without a head, .csv with one), or JSON or parquet with image and caption.

With --balance a caption is kept for the noun phrases in it, of which rare ones are passed over and frequent ones are
drawn from, as LLaVA chose 595K of CC3M's three million. A build that was stopped goes on by the same command.

  llava-pl data captions cc3m/ pairs --balance
  llava-pl data captions mine.csv mine --image_folder pictures
  llava-pl fit --config FILE --data.records mine/records.json --data.image_folder pictures"""


def main(words: Sequence[str]) -> int:
    """Build, and return the exit status.

    Args:
        words: What follows ``llava-pl data captions``.

    Raises:
        InputError: The source, an option or the place of the result is wrong.
    """
    options = make_parser().parse_args(list(words))
    for option in ("min_pixels", "min_count", "max_captions", "workers"):
        check_at_least(1, getattr(options, option), f"--{option}")
    check_at_least(0, options.seed, "--seed")

    from llava_pl.building.alignment_files import LEFT_OUT, PARTS, check_folder, open_folder, write_alignment
    from llava_pl.building.balance import Balance
    from llava_pl.building.captions import read_captions
    from llava_pl.building.noun_phrases import describe_pipeline, load_pipeline
    from llava_pl.building.shards import find_shards
    from llava_pl.building.survey import SurveySettings, make_parts, plan_parts
    from llava_pl.building.wordings import BRIEF, read_wordings

    wordings = read_wordings(options.wording or BRIEF)
    version = describe_pipeline(load_pipeline(options.spacy)) if options.balance else ""
    settings = SurveySettings(options.min_pixels, options.spacy if options.balance else None, version)
    balance = Balance(options.min_count, options.max_captions, options.seed) if options.balance else None
    check_folder(options.dst, options.src)
    read = partial(read_captions, options.src, options.image_folder, delimiter=options.delimiter)
    plan = plan_parts(show_progress(read(), "reading captions"), options.dst / PARTS, settings)
    if not plan:
        raise InputError(f"{options.src}: expected captions, found none")
    with open_folder(options.dst, options.src):
        with progress_bar(sum(plan.values()), "looking at captions") as advance:
            make_parts(read(), plan, settings, num_processes=options.workers, advance=advance)
        counts = write_alignment(
            options.dst,
            list(plan),
            wordings,
            balance,
            options.seed,
            _describe(options, version),
            extract=bool(find_shards(options.src)),
        )
    for name, number in counts.items():
        sys.stdout.write(f"{number:>12,}  {name}\n")
    if not counts["records"]:
        found = ", ".join(f"{number:,} {name}" for name, number in counts.items() if name.startswith("left out"))
        raise InputError(
            f"{options.src}: expected captions to learn from, found none ({found}); see {options.dst / LEFT_OUT}"
        )
    sys.stdout.write(f"wrote {options.dst / 'records.json'}; look at {options.dst / 'report.html'}\n")
    return 0


def _describe(options: argparse.Namespace, version: str) -> dict[str, object]:
    """Return what a report is to say of how it came about."""
    names = ["seed", "min_pixels", *(("min_count", "max_captions") if options.balance else ())]
    return {
        "source": str(options.src),
        "wording": str(options.wording or "our own"),
        **{name: getattr(options, name) for name in names},
        **({"pipeline": version} if version else {}),
    }


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl data captions", usage="llava-pl data captions SRC DST [options]", description=DESCRIPTION
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="where the captions are")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to write; made if need be")
    parser.add_argument(
        "--image_folder",
        type=Path,
        metavar="FOLDER",
        help="folder that names of pictures in tables and JSON start from",
    )
    parser.add_argument(
        "--delimiter",
        type=parse_delimiter,
        default=",",
        metavar="CHAR",
        help="between two cells of a .csv table, or the word tab (a comma)",
    )
    parser.add_argument("--wording", type=Path, metavar="FILE", help="questions to draw from, one a line (our own)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (%(default)s)")
    parser.add_argument(
        "--min_pixels", type=int, default=32, metavar="N", help="shortest side that a picture may have (%(default)s)"
    )
    parser.add_argument("--balance", action="store_true", help="choose by noun phrases; needs spaCy")
    parser.add_argument(
        "--min_count", type=int, default=3, metavar="N", help="captions that a phrase must be in to count (%(default)s)"
    )
    parser.add_argument(
        "--max_captions", type=int, default=100, metavar="N", help="captions that are drawn for a phrase (%(default)s)"
    )
    parser.add_argument(
        "--spacy", default="en_core_web_sm", metavar="NAME", help="pipeline that finds noun phrases (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=count_cores(), metavar="N", help="processes (%(default)s)")
    return parser
