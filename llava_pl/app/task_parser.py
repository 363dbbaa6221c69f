"""The options of a task, read off its signature; errors of one line."""

from __future__ import annotations

import sys
from typing import NoReturn

from jsonargparse import ArgumentParser

from llava_pl.parser_errors import explain


class TaskParser(ArgumentParser):
    """A parser of the options of a task; its errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message on one line and exit with status 2."""
        del ex
        names = [text[2:] for action in self._actions for text in action.option_strings if text.startswith("--")]
        line = explain(str(message), sys.argv[1:], names).replace("give it in a --config file or as", "give it as")
        sys.stderr.write(f"llava-pl: error: {line}\n")
        sys.exit(2)
