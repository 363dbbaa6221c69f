"""Files that users may put in the place of ours: prompts, names of objects, wordings.

In: a path, and the option that names it. Out: YAML or lines; what cannot be read is named with its option.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from llava_pl.types import InputError


def read_yaml(path: Path, option: str) -> Any:  # noqa: ANN401  YAML is any type until it is validated
    """Return the content of a YAML file.

    Raises:
        InputError: It cannot be read, or is no YAML.
    """
    try:
        return yaml.safe_load(_read_text(path, option))
    except yaml.YAMLError as error:
        raise InputError(f"{option}: {path}: invalid YAML: {' '.join(str(error).split())}") from error


def read_lines(path: Path, option: str) -> list[str]:
    """Return the lines of a file, without blank ones and comments (#).

    Raises:
        InputError: It cannot be read.
    """
    lines = _read_text(path, option).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _read_text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option}: {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
