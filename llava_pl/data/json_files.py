"""JSON files to Python values; a file that is none says where it goes wrong."""

from __future__ import annotations

import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_pl.types import InputError

_NUM_BYTES_AT_ONCE = 1 << 16


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


def read_json_lines(path: str | Path, torn_start: bytes | None = None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a file of JSON lines, each with where it stands; one line at a time is in memory.

    Args:
        path: The file.
        torn_start: What lines of ours begin with; what a kill has left of such a line at the end is passed over.

    Raises:
        InputError: The file cannot be read, or a line is no JSON object.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(BOM_UTF8) if number == 1 else line
                if not content.strip():
                    continue
                where = f"{path}: line {number}"
                try:
                    row = _parse_line(content, where)
                except InputError:
                    if torn_start is not None and _is_torn(line, torn_start):
                        return
                    raise
                yield where, row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} column {error.colno}: not valid JSON: {error.msg}; expected one object a line"
        ) from None
    except (RecursionError, ValueError) as error:  # nested or a number too long for Python's reader
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def _is_torn(line: bytes, start: bytes) -> bool:
    """Return whether a line that cannot be parsed is what a kill has left of one of ours."""
    return not line.endswith(b"\n") and line.startswith(start[: len(line)])


def cut_torn_line(path: Path, start: bytes) -> None:
    """Make a file of JSON lines ready to be added to: drop what a kill has left of its last line, or end that line.

    Args:
        path: The file.
        start: What lines of ours begin with; a broken line that begins otherwise is left alone.
    """
    size, last = path.stat().st_size, b""
    with path.open("r+b") as file:
        while b"\n" not in last and len(last) < size:
            num_bytes = min(size, 2 * len(last) or _NUM_BYTES_AT_ONCE)
            file.seek(size - num_bytes)
            last = file.read(num_bytes)
        last = last[last.rfind(b"\n") + 1 :]
        if not last:
            return
        try:
            json.loads(last)
        except ValueError:
            if _is_torn(last, start):
                file.truncate(size - len(last))
        else:
            file.seek(size)
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
