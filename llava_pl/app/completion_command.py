"""`llava-pl completion`: a script that makes a shell complete commands, options, choices and file names with TAB.

In: the parsers of all commands. Out: a script that holds their words, so that a TAB starts no Python. shtab writes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_pl.app.arguments import OneLineArguments
from llava_pl.app.commands import APP_COMMANDS, CARRY_COMMANDS, FIT_COMMANDS, SUMMARIES

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SHELLS = ("bash", "zsh", "fish")

DESCRIPTION = """Print a script that makes a shell complete commands, options, choices and file names with TAB. It is
made once, which takes some seconds, and again after an update; a TAB starts no Python.

  llava-pl completion bash > ~/.local/share/bash-completion/completions/llava-pl
  llava-pl completion zsh > ~/.zfunc/_llava-pl      with fpath+=~/.zfunc before compinit in ~/.zshrc
  llava-pl completion fish > ~/.config/fish/completions/llava-pl.fish
  eval "$(llava-pl completion bash)"                for this shell alone"""

PLACES = ("FILE", "FOLDER", "DIR", "MODEL", "RUN", "SRC", "DST", "CKPT", "A", "B", "RUN_A", "RUN_B")
"""Words that stand for files and folders in help pages."""

FIT_PLACES = (
    *("ckpt_path", "run_dir", "model.init_from", "model.vision_encoder.path", "model.decoder.path"),
    *("data.records", "data.val_records", "data.image_folder", "data.root", "data.cache_dir", "data.quarantine"),
)
"""Settings that name a file or folder, whose types allow other words, too."""

LINKED = ("data.tokenizer", "data.image_processor", "data.num_image_tokens")
"""Settings that the program takes from elsewhere."""


def main(words: Sequence[str]) -> int:
    """Print the script, and return the exit status.

    Args:
        words: What follows ``llava-pl completion``.
    """
    shell = make_parser().parse_args(list(words)).shell
    import shtab

    sys.stdout.write(shtab.complete(make_tree(), shell) + "\n")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl completion", usage="llava-pl completion {bash,zsh,fish}", description=DESCRIPTION
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell will read it")
    return parser


def make_tree() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, each command's own parser in its place."""
    lightning = lightning_parsers()
    for each in lightning.values():
        _read_types(each)
        _drop_links(each)
        _with_places(each)
    tree = OneLineArguments(prog="llava-pl")
    tree.add_argument("--version", action="store_true", help="show the version")
    parsers = {**lightning, **{name: _own_parser(name, lightning["fit"]) for name in (*CARRY_COMMANDS, *APP_COMMANDS)}}
    _put_below(tree, {name: parsers[name] for name in SUMMARIES}, SUMMARIES)
    return tree


def _own_parser(command: str, fit: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Return the parser of a command that is not Lightning's."""
    if command in CARRY_COMMANDS:
        return _with_places(import_module("llava_pl.app.carry_commands").make_parser(command))
    module: Any = import_module(f"llava_pl.app.{APP_COMMANDS[command]}")
    if command == "data":
        own = {name: import_module(f"llava_pl.app.data.{each}").make_parser() for name, each in module.MODULES.items()}
        _read_types(own["instruct"])
        return _group("data", {name: _with_fit(module.make_parser(name), fit) for name in ("view", "check")} | own)
    if command == "eval":
        return _group("eval", _eval_parsers())
    if command == "verify":
        return _group("verify", {"invariance": _with_fit(module.make_parser(), fit)})
    return _with_fit(module.make_parser(), fit) if command == "plan" else _with_places(module.make_parser())


def _eval_parsers() -> dict[str, argparse.ArgumentParser]:
    from llava_pl.app.evaluation import diff_command, eval_commands, judge_command
    from llava_pl.evaluation.benchmarks import TASKS, find_task

    tasks = {name: eval_commands.make_parser(name, find_task(name))[0] for name in TASKS}
    tasks["judge"] = judge_command.make_parser()[0]
    for parser in tasks.values():
        _read_types(parser)
    return {**tasks, "diff": diff_command.make_parser()}


def _group(command: str, parsers: dict[str, argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Return a parser that has others below it."""
    parser = OneLineArguments(prog=f"llava-pl {command}")
    _put_below(parser, {name: _with_places(each) for name, each in parsers.items()}, {})
    return parser


def _put_below(
    parser: argparse.ArgumentParser, parsers: dict[str, argparse.ArgumentParser], summaries: dict[str, str]
) -> None:
    below: Any = parser.add_subparsers()
    for name, each in parsers.items():
        below.add_parser(name, help=summaries.get(name, name))
        below.choices[name] = each


def lightning_parsers() -> dict[str, ArgumentParser]:
    """Return the parsers of Lightning's commands, with everything that the program adds to them."""
    from llava_pl.lightning_cli import LlavaCLI, run_lightning

    class FoundError(Exception):
        pass

    class OnlyTheParser(LlavaCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:  # noqa: ANN401
            raise FoundError(parser)

    try:
        run_lightning(["fit"], OnlyTheParser)
    except FoundError as found:
        commands = found.args[0]._subcommands_action.choices
        return {name: commands[name] for name in FIT_COMMANDS}
    raise AssertionError("no parser was made")


def _read_types(parser: ArgumentParser) -> None:
    """Make choices of the types of options: jsonargparse does so when it makes a script, which is not used here.

    With the one for zsh the choices are plain; in that for bash they are functions that print into the prompt.
    """
    parser.get_completion_script("shtab-zsh")


def _drop_links(parser: ArgumentParser) -> None:
    """Take out what nobody types: linked settings, and the links themselves, which have a text in place of a name."""
    parser._actions[:] = [
        action
        for action in parser._actions
        if action.dest not in LINKED and all(name.startswith("-") for name in action.option_strings)
    ]


def _with_fit(parser: argparse.ArgumentParser, fit: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of `fit` to those of a command that understands them, too."""
    taken = set(parser._option_string_actions)
    for action in fit._actions:
        if action.option_strings and taken.isdisjoint(action.option_strings):
            parser._add_action(action)
    return _with_places(parser)


def _with_places(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Have file names completed where an option names one."""
    import shtab

    for action in parser._actions:
        if action.dest in FIT_PLACES:
            action.choices = None  # "null" alone
        is_place = action.type is Path or action.metavar in PLACES or action.dest in FIT_PLACES
        if is_place and not action.choices and not hasattr(action, "complete"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab looks for
    return parser
