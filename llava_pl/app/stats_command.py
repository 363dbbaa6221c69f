"""`llava-pl data stats`: what records hold, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.types import InputError
from llava_pl.visible import visible

DESCRIPTION = """Count what files of records hold, side by side: records, pictures, questions, words, what is talked
about and how questions begin.

  llava-pl data stats conversation.json detailed.json --html stats.html"""


def main(words: Sequence[str]) -> int:
    """Count, and return the exit status.

    Args:
        words: What follows ``llava-pl data stats``.

    Raises:
        InputError: A file is broken, or the page cannot be written.
    """
    options = make_parser().parse_args(list(words))
    check_place(options.html, "--html")

    from llava_pl.building.record_files import read_records
    from llava_pl.building.statistics import measure_records
    from llava_pl.building.statistics_page import as_rows, statistics_page

    # By their names, or where two have the same one, by their paths.
    names = [path.name for path in options.src]
    labels = [path.name if names.count(path.name) == 1 else str(path) for path in options.src]
    found = {label: measure_records(read_records(path)) for label, path in zip(labels, options.src, strict=True)}
    table = Table("")
    for label in found:
        table.add_column(Text(visible(label)), justify="right")
    for first, *cells in as_rows(found):
        table.add_row(first, *cells)
    Console().print(table, highlight=False)
    for label, one in found.items():
        for title, counts in (("most talked about", one.concepts), ("folders of pictures", one.folders)):
            most = ", ".join(f"{visible(word)} {number:,}" for word, number in counts.most_common(10))
            sys.stdout.write(f"{visible(label)}: {title} (records): {most or 'none'}\n")
    if options.html is not None:
        try:
            options.html.write_text(statistics_page(found), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--html: {options.html}: cannot be written ({error.strerror})") from error
        sys.stdout.write(f"wrote {options.html}\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl data stats", usage="llava-pl data stats SRC [SRC ...] [options]", description=DESCRIPTION
    )
    parser.add_argument("src", nargs="+", metavar="SRC", type=Path, help="file of records")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page for the browser here")
    return parser
