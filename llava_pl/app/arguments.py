"""The options of commands that are not Lightning's: pages that fit a screen, errors of one line, files to write."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

from llava_pl.types import InputError

MAX_WIDTH = 100

RECORD_FORMS = ("llava", "sharegpt", "messages")
"""Those of `building.formats`, which is not imported for a help page."""


class HelpPage(argparse.HelpFormatter):
    """Fills paragraphs up to the terminal's width; those with indented lines, such as examples, stay as they are."""

    def __init__(self, prog: str, **settings: Any) -> None:  # noqa: ANN401  the base class's own arguments
        width = min(shutil.get_terminal_size().columns, MAX_WIDTH) - 2
        super().__init__(prog, **{"width": width, "max_help_position": 30, **settings})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        fill = super()._fill_text
        return "\n\n".join(
            each if re.search("^ ", each, re.MULTILINE) else fill(each, width, indent) for each in paragraphs
        )


class OneLineArguments(argparse.ArgumentParser):
    """A parser of a command's own options, none of which it guesses; its errors are one line with a next step."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  the base class's own arguments
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpPage, **settings})

    def error(self, message: str) -> NoReturn:
        """Print the message on one line and exit with status 2."""
        says_what_to_do = "found" in message or "choose from" in message
        hint = "" if says_what_to_do else f"; `{self.prog} --help` lists the options"
        sys.stderr.write(f"llava-pl: error: {message}{hint}\n")
        sys.exit(2)


def parse_delimiter(text: str) -> str:
    """Return the character between two cells of a table that an option names: itself, or ``tab``."""
    character = "\t" if text == "tab" else text
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character or the word tab, found {text!r}")
    return character


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_at_least(least: int, number: int, option: str) -> None:
    """Check a count."""
    if number < least:
        raise InputError(f"{option}: expected at least {least}, found {number}")


def check_place(path: Path | None, option: str) -> None:
    """Check that a file can be written, before the work of which it is the result."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        found = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise InputError(f"{option}: {path}: expected a file in a folder that exists, found {found}")
