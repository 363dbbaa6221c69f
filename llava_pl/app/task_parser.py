"""The options of a task, read off its signature; a page that fits a screen, errors of one line."""

from __future__ import annotations

import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from llava_pl.app.arguments import HelpPage
from llava_pl.parser_errors import explain


class TaskPage(HelpPage, DefaultHelpFormatter):
    """As the pages of other commands, with the words of docstrings and their defaults."""

    def _expand_help(self, action: Any) -> str:  # noqa: ANN401  argparse's
        # The choices stand in front, a type says less than its default, and "null" is that an option was left out.
        text = re.sub(r"type: [^()]*?(?=, default: |\)$)", "", super()._expand_help(action))
        return re.sub(r" \((?:, )?(?:default: (?:null|None))?\)$", "", text).replace("(, ", "(").replace(", )", ")")


class TaskParser(ArgumentParser):
    """A parser of the options of a task; its errors are one line."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401  the base class's own arguments
        super().__init__(**{"allow_abbrev": False, "formatter_class": TaskPage, **settings})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message on one line and exit with status 2."""
        del ex
        names = [text[2:] for action in self._actions for text in action.option_strings if text.startswith("--")]
        line = explain(str(message), sys.argv[1:], names).replace("give it in a --config file or as", "give it as")
        sys.stderr.write(f"llava-pl: error: {line}\n")
        sys.exit(2)
