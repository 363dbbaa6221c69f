"""`llava-pl data stats`: what records hold, words in, exit status out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_pl.app.arguments import RECORD_FORMS, OneLineArguments, check_place
from llava_pl.types import InputError
from llava_pl.visible import visible
from llava_pl.whole_file import whole_file

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
    from llava_pl.building.statistics_page import QUANTILE_HEADS, as_quantile_rows, as_rows, statistics_page

    found = {
        label: measure_records(read_records(path, options.form, is_strict=False))
        for label, path in _label(options.src).items()
    }
    _print_table(["", *found], as_rows(found))
    _print_table(QUANTILE_HEADS, as_quantile_rows(found), num_names=2)
    for label, one in found.items():
        for title, counts in (("most talked about", one.concepts), ("folders of pictures", one.folders)):
            most = ", ".join(f"{visible(word)} {number:,}" for word, number in counts.most_common(10))
            sys.stdout.write(f"{visible(label)}: {title} (records): {most or 'none'}\n")
    if options.html is not None:
        try:
            with whole_file(options.html) as part:
                part.write_text(statistics_page(found), encoding="utf-8")
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
    parser.add_argument(
        "--from", dest="form", choices=RECORD_FORMS, default="llava", help="what each SRC holds (%(default)s)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page for the browser here")
    return parser


def _label(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the files by their names, or where several have the same one by their paths, each time with a number."""
    names = [path.name for path in paths]
    labels = [path.name if names.count(path.name) == 1 else str(path) for path in paths]
    numbered = [
        label if labels.count(label) == 1 else f"{label} ({labels[: number + 1].count(label)})"
        for number, label in enumerate(labels)
    ]
    return dict(zip(numbered, paths, strict=True))


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> None:
    table = Table()
    for number, head in enumerate(heads):
        table.add_column(Text(visible(head)), justify="left" if number < num_names else "right")
    for cells in rows:
        table.add_row(*(Text(visible(cell)) for cell in cells))
    Console().print(table, highlight=False)
