"""JSON files to Python values; a file that is none says where it goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_pl.types import InputError


def read_json(path: str | Path) -> Any:  # noqa: ANN401  JSON is any type until it is validated
    """Return the content of a JSON file.

    Raises:
        InputError: The file is missing, is a folder, is not UTF-8, or is no JSON; line and column are named.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # with a byte order mark, or without
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        offset = Path(path).stat().st_size - len(error.object) + error.start  # the mark is not in the object
        raise InputError(
            f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x} at offset {offset}"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested or a number too long for Python's reader
        raise InputError(f"{path}: invalid JSON: {error}") from error


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InputError: As `read_json`, and when the file holds anything but an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_json_lines(path: str | Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the objects of a file of JSON lines, each with where it stands.

    Raises:
        InputError: The file cannot be read, or a line is no JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{where} column {error.colno}: not valid JSON: {error.msg}; expected one object a line"
            ) from None
        except (RecursionError, ValueError) as error:  # nested or a number too long for Python's reader
            raise InputError(f"{where}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, found {type(row).__name__}")
        rows.append((where, row))
    return rows


def cut_torn_line(path: Path, start: bytes) -> None:
    """Make a file of JSON lines ready to be added to: drop what a kill has left of its last line, or end that line.

    Args:
        path: The file.
        start: What lines of ours begin with; a broken line that begins otherwise is left alone.
    """
    content = path.read_bytes()
    last = content[content.rfind(b"\n") + 1 :]
    if not last:
        return
    try:
        json.loads(last)
    except ValueError:
        if last.startswith(start[: len(last)]):
            with path.open("r+b") as file:
                file.truncate(len(content) - len(last))
    else:
        with path.open("ab") as file:
            file.write(b"\n")


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, which is made if need be; it is on the disk when this returns, or not in the file at all.

    Raises:
        OSError: It cannot be written, as where the disk is full.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):  # half a line would spoil the next one
            os.truncate(path, size)
        raise
