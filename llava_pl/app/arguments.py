"""The options of commands that are not Lightning's: errors of one line, and files that can be written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from llava_pl.types import InputError


class OneLineArguments(argparse.ArgumentParser):
    """A parser of a command's own options; its errors are one line, as those of the others are."""

    def error(self, message: str) -> NoReturn:
        """Print the message on one line and exit with status 2."""
        sys.stderr.write(f"llava-pl: error: {message}\n")
        sys.exit(2)


def check_place(path: Path | None, option: str) -> None:
    """Check that a file can be written, before the work of which it is the result."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        found = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise InputError(f"{option}: {path}: expected a file in a folder that exists, found {found}")
