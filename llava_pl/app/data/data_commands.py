"""`llava-pl data`: `view`, `check`, and the way to the others; words in, exit status out.

Help pages are answered without torch; what needs it is imported when a command runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments, check_place
from llava_pl.types import InputError

HELP = """usage: llava-pl data COMMAND [options]

Look at the data of a run before it costs anything, and at what a run has seen. `view` and `check`
understand every option of `llava-pl fit`, with the same meaning; no model is loaded.

commands
  view       show one record as training sees it: tokens read, tokens learned, places of pictures
  check      decode every picture, encode every record; list all that training would stumble over
  captions   make records of stage align of pictures with captions, balanced by what they name
  instruct   have a teacher write records of stage finetune from captions and boxes
  convert    write records in another form: LLaVA's, ShareGPT's, chat messages, a table
  split      hold back the records of some pictures
  stats      count what records hold: lengths, words, pictures
  scienceqa  write ScienceQA as the original's training script reads it
  ledger     prove that a run saw every sample exactly once per epoch, also across kills

examples
  llava-pl data view --config configs/experiment/finetune_7b.yaml --index 7 --html view.html
  llava-pl data check --config configs/experiment/finetune_7b.yaml --quarantine bad.json
  llava-pl data convert pictures.csv records.json --image_folder pictures
  llava-pl data scienceqa playground/data/scienceqa converted --split train --prompt_format QCM-LEA
  llava-pl data ledger runs/finetune_7b/TIME
  llava-pl fit --config FILE --data.bad_records quarantine --data.quarantine bad.json

options
  -h, --help     show this page; COMMAND --help lists the options of a command

`check` and `ledger` end with status 0 when all is good, 1 when something is wrong, 2 for wrong
usage.
"""

MODULES = {
    "captions": "captions_command",
    "instruct": "instruct_command",
    "convert": "convert_command",
    "split": "split_command",
    "stats": "stats_command",
    "scienceqa": "scienceqa_command",
    "ledger": "ledger",
}
"""Commands in modules of their own, each with a `main` and a `make_parser`."""


def main(words: Sequence[str]) -> int:
    """Run a data command and return its exit status.

    Args:
        words: What follows ``llava-pl data``.

    Raises:
        InputError: The command, an option or the configuration is wrong.
    """
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0 if words else 2
    name, *rest = words
    if name in ("view", "check"):
        return _view(rest) if name == "view" else _check(rest)
    if name not in MODULES:
        raise InputError(f"data: unknown command {name!r}; expected one of view, check, {', '.join(MODULES)}")
    status: int = import_module(f"llava_pl.app.data.{MODULES[name]}").main(rest)
    return status


def _view(words: Sequence[str]) -> int:
    parser = make_parser("view")
    options, rest = parser.parse_known_args(words)
    _check_page_place(options.html)

    from llava_pl.app.data.lens import look_at
    from llava_pl.app.data.lens_html import view_page
    from llava_pl.app.data.lens_terminal import print_view
    from llava_pl.app.load_data import load_data

    view = look_at(load_data(rest), options.index, options.source)
    print_view(view)
    if options.html is not None:
        _write(options.html, view_page(view))
    return 0


def _check(words: Sequence[str]) -> int:
    parser = make_parser("check")
    options, rest = parser.parse_known_args(words)
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers: expected at least 0, found {options.workers}")
    _check_page_place(options.html)
    _check_quarantine_place(options.quarantine)

    from llava_pl.app.data.check import check_records
    from llava_pl.app.data.check_html import report_page
    from llava_pl.app.data.check_terminal import print_report
    from llava_pl.app.load_data import load_data
    from llava_pl.data.quarantine import write_quarantine
    from llava_pl.progress import progress_bar

    data = load_data(rest)
    sources, encoder = data.open_entries(), data.make_encoder()
    num_records = sum(map(len, sources.values()))
    if not num_records:
        raise InputError("data: no records to check; give the data module a training file")
    num_workers = data.num_workers if options.workers is None else options.workers
    with progress_bar(num_records, "checking records") as advance:
        report = check_records(sources, encoder, num_workers=num_workers, advance=advance)
    print_report(report)
    if options.quarantine is not None:
        write_quarantine(options.quarantine, sources, report.bad)
        sys.stdout.write(f"wrote {options.quarantine}\n")
    if options.html is not None:
        _write(options.html, report_page(report, encoder.load_picture))
    return 1 if report.bad else 0


def make_parser(command: str) -> argparse.ArgumentParser:
    """Return the own options of `view` or `check`, without torch; those of `fit` are understood, too."""
    if command == "view":
        parser = _parser(command, "Show one record as training sees it.", "--index 7 --html view.html")
        parser.add_argument("--index", type=int, default=0, help="place of the record in its source (%(default)s)")
        parser.add_argument("--source", metavar="NAME", help="name of the source, by default the first")
        return parser
    what = "Decode every picture and encode every record of data.records and data.val_records."
    parser = _parser(command, what, "--quarantine bad.json")
    parser.add_argument("--quarantine", type=Path, metavar="FILE", help="write the bad records here, as JSON")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that work in parallel (data.num_workers)")
    return parser


def _parser(command: str, description: str, example: str) -> argparse.ArgumentParser:
    parser = OneLineArguments(
        prog=f"llava-pl data {command}",
        usage=f"llava-pl data {command} --config FILE [options]",
        description=description,
        epilog="Every option of `llava-pl fit` is understood, above all --config; `llava-pl fit --help` shows them.\n\n"
        f"example\n  llava-pl data {command} --config configs/experiment/finetune_7b.yaml {example}",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page for the browser here")
    return parser


def _check_page_place(path: Path | None) -> None:
    check_place(path, "--html")
    if path is not None and path.exists() and path.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"--html: {path}: expected a new file or a page (.html), found another file; choose another name"
        )


def _check_quarantine_place(path: Path | None) -> None:
    from llava_pl.data.quarantine import is_quarantine

    check_place(path, "--quarantine")
    if path is not None and path.exists() and not is_quarantine(path):
        raise InputError(
            f"--quarantine: {path}: expected a new file or a quarantine, found another file; choose another name"
        )


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    sys.stdout.write(f"wrote {path}\n")
