"""The parser's complaint comes in; one line goes out that names the key, where it stands, and what would be right.

jsonargparse names a wrong key without the file it stands in and without its neighbours, drops the front of a key inside
`init_args`, and shows choices as Python types. Its texts are matched here and nowhere else; one that is not known stays
as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from math import isnan
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from llava_pl.data.mixture import SourceConfig

UNKNOWN_KEY = (
    r"unrecognized arguments: --([^\s=]+)",
    r"(?:Group|Subcommand) '[^']+' does not accept option '([^']+)'",
    r"Option '([^']+)' is not accepted",
)
MISSING_KEY = (
    r"the following arguments are required: (?:\w+\.)?(\S+)",
    r'Key "([^"]+)" not found in namespace',
    r'Parser key "([^"]+)": Expected a <class .*Got value: None$',
)
KINDS = {"ConversationDataModule": "LlavaDataModule, ScienceQADataModule"}
WRONG_SOURCES = r'Parser key "((?:[\w.]+\.)?records)":.* (?:Got|Given) value: (.*)$'
WRONG_VALUE = r'Parser key "([^"]+)": (.*?)(?: Given value type: .*)? (?:Got|Given) value: (.*)$'


def explain(message: str, words: Sequence[str], options: Sequence[str]) -> str:
    """Return a parser's message as one line for the person who made the mistake.

    Args:
        message: What the parser says.
        words: The command line: the command, then its options.
        options: Every option of the command, without dashes.

    >>> explain("unrecognized arguments: --model.stagee align", ["fit", "--model.stagee", "align"], ["model.stage"])
    '--model.stagee: no such option; did you mean model.stage?'
    """
    line = " ".join(message.split())
    if match := re.search(r"File does not exist: '(.*)'", line):
        return _missing_file(Path(match[1]))
    if match := re.match(r"Problems parsing config:|Unexpected config:", line):
        return f"{_broken_file(words)}: expected a YAML file with keys such as trainer: and model:; {line[:160]}"
    if match := re.match(r'Parser key "([^"]+)": Unable to load config \'(.*?)\'', line):
        key, place = _locate(match[1], words, match[2])
        return f"{place}{key}: expected a group of options or an existing YAML file, found {match[2]}"
    for pattern in MISSING_KEY:
        if match := re.match(pattern, line):
            return f"{match[1]}: required, found nothing; give it in a --config file or as --{match[1]}"
    for pattern in UNKNOWN_KEY:
        if match := re.match(pattern, line):
            key, place = _locate(match[1], words)
            return f"{place}{key}: no such option; {_suggest(key, options)}"
    if match := re.match(WRONG_SOURCES, line):
        key, place = _locate(match[1], words)
        return f"{place}{key}: {_explain_sources(match[2])}"
    line = re.sub(r"NestedArg\(key='[\w.]+', val='(.*)'\)$", r"\1", line)  # a class or an argument of one
    if match := re.match(WRONG_VALUE, line):
        key, place = _locate(match[1], words, match[3])
        return f"{place}{key}: expected {_expected(match[2])}, found {match[3]}"
    return line


def _missing_file(path: Path) -> str:
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if not path.parent.is_dir():
        return f"{shown}: no such file, and no folder {shown.parent}; check the path"
    names = sorted(other.name for other in path.parent.iterdir() if other.suffix in (".yaml", ".yml"))
    return f"{shown}: no such file; {shown.parent} has {', '.join(names) or 'no YAML file'}"


def _broken_file(words: Sequence[str]) -> str:
    files = [text for name, text in _options(words) if name in ("--config", "-c")]
    return next((path for path in files if not isinstance(_read(path), dict)), "--config")


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each word that may be an option, with the value that belongs to it."""
    for index, word in enumerate(words):
        name, has_value, value = word.partition("=")
        yield name, value if has_value else " ".join(words[index + 1 : index + 2])


def _locate(key: str, words: Sequence[str], value: str | None = None) -> tuple[str, str]:
    """Return the whole key, and the file in which it stands; the last place counts, as it does for the parser."""
    found = (key, "")
    for name, text in _options(words):
        if name in ("--config", "-c"):
            for full, content in _walk(_read(text)):
                if _ends_with(full, key) and value in (None, str(content)):
                    found = (full, f"{text}: ")
        elif name.startswith("--") and _ends_with(name[2:], key) and value in (None, text):
            found = (name, "")
    return found


def _ends_with(full: str, key: str) -> bool:
    return full == key or full.endswith(f".{key}")


def _walk(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401  whatever a YAML file holds
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        key = prefix + str(name).removesuffix("+")  # as in "callbacks+"
        yield key, value
        yield from _walk(value, f"{key}.")


def _read(path: str) -> Any:  # noqa: ANN401  whatever a YAML file holds
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _suggest(key: str, options: Sequence[str]) -> str:
    """Return the options that a wrong key may stand for: similar ones, or all of its group if these are few."""
    key = key.removeprefix("--")
    group, _, last = key.rpartition(".")
    siblings = {}
    for option in options:
        own_group, _, name = option.rpartition(".")
        if own_group.removesuffix(".init_args") == group.removesuffix(".init_args"):
            siblings[name] = option
    close = [siblings[name] for name in get_close_matches(last, siblings, 3, 0.6)]
    close = close or get_close_matches(key, options, 3, 0.7)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if group and 0 < len(siblings) <= 12:
        return f"{group} has {', '.join(sorted(siblings))}"
    return "--help lists all options"


def _explain_sources(text: str) -> str:
    """Return what is wrong with the files to train on, of a list the first item alone."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    kinds = get_type_hints(SourceConfig)
    for number, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, str):
            continue
        if not isinstance(item, dict) or "path" not in item or not item.keys() <= kinds.keys():
            return f"item {number}: expected a file, or its path, name and repeats, found {item}"
        for name, found in item.items():
            is_number = kinds[name] is float
            if not (_is_number(found) if is_number else isinstance(found, str)):
                expected = "a number such as 2.5" if is_number else "text"
                return f"item {number}: {name}: expected {expected}, found {found!r}"
    return f"expected a file, or a list of files or of their path, name and repeats, found {text}"


def _is_number(value: object) -> bool:
    try:
        return not isnan(float(str(value)))
    except ValueError:
        return False


def _expected(types: str) -> str:
    """Return choices and types in the words of a person."""
    if literals := re.findall(r"Literal\[([^\]]*)\]", types.split(" Errors:")[0]):
        choices = dict.fromkeys(choice.strip(" '\"") for group in literals for choice in group.split(","))
        return f"one of {', '.join(choices)}"
    names = dict.fromkeys(name.rpartition(".")[2] for name in re.findall(r"<class '([\w.]+)'>", types))
    names.pop("NoneType", None)
    if "import path" in types or "class_path" in types:
        return f"a class ({', '.join(KINDS.get(name, name) for name in names)})"
    return " or ".join(names) or types.removeprefix("Expected ").rstrip(".")
