"""Files of records in any form, read and written one at a time: a million of them pass through little memory."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from llava_pl.building.formats import Form, read_entry, write_entry
from llava_pl.data.sources import read_entries
from llava_pl.types import InputError, Record, RecordError
from llava_pl.whole_file import whole_file


def read_forms(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield the entries of a file as they are: each with where it is, a name for one that has none, and all its fields.

    Args:
        path: As `sources.read_entries` takes it: a JSON list, JSON lines, parquet, a folder of `datasets`.

    Raises:
        InputError: It is broken, or a table.
    """
    if path.suffix.lower() == ".csv":
        raise InputError(
            f"{path}: expected records, found a table by its name; `llava-pl data convert {path} records.json "
            "--image_folder FOLDER` makes records of it"
        )
    for index, entry in enumerate(read_entries(path, fields=None)):
        yield f"{path}: record {index}", f"{path.stem}-{index}", entry


def read_records(path: Path, form: Form = "llava", *, is_strict: bool = True) -> Iterator[Record]:
    """Yield the records of a file.

    Args:
        path: As for `read_forms`.
        form: What its entries are.
        is_strict: As for `formats.read_entry`.

    Raises:
        InputError: It is broken, or an entry is no record.
    """
    for where, name, entry in read_forms(path):
        yield read_entry(entry, form, name, where, is_strict=is_strict)


def convert_records(records: Iterable[Record], form: Form, source: Path) -> Iterator[dict[str, Any]]:
    """Yield records in another form.

    Args:
        records: All of a file.
        form: Any but a table.
        source: Where they are from, for messages.

    Raises:
        RecordError: A record says what the form cannot.
    """
    for index, record in enumerate(records):
        try:
            yield write_entry(record, form)
        except RecordError as error:
            raise RecordError(f"{source}: record {index} (id {record.id!r}): {error}", error.reason) from None


def write_entries(path: Path, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write a list (.json) or lines (.jsonl), an entry a line, and return how many; the file is whole or not there.

    Raises:
        InputError: An entry holds what JSON cannot.
    """
    with whole_file(path) as part:
        return _write(part, path, entries)


def write_sides(sides: Mapping[Path, Iterable[Mapping[str, Any]]]) -> list[int]:
    """Write several files as `write_entries` does, and give them their names when all are whole; return how many each.

    A file that is there already stays if it is the same: one that a kill between two names has left.

    Raises:
        InputError: A file is there and is another, or an entry holds what JSON cannot.
    """
    with ExitStack() as stack:
        parts = {path: stack.enter_context(whole_file(path)) for path in sides}
        numbers = [_write(parts[path], path, entries) for path, entries in sides.items()]
        for path, part in parts.items():
            if path.exists() and not filecmp.cmp(path, part, shallow=False):
                raise InputError(f"{path}: expected a new file, found another one; choose another name")
    return numbers


def check_output(path: Path, option: str, *, is_table: bool = False, is_new: bool = True) -> None:
    """Check that a file of records can be written, before they are read.

    Raises:
        InputError: It exists and should be new, its folder does not, or its name does not say its form.
    """
    if path.suffix.lower() not in ((".csv",) if is_table else (".json", ".jsonl")):
        expected = ".csv" if is_table else ".json (a list) or .jsonl (lines)"
        raise InputError(f"{option}: {path}: expected a name that ends in {expected}")
    if is_new and path.exists():
        raise InputError(f"{option}: {path}: expected a new file, found one; choose another name")
    if not path.parent.is_dir():
        raise InputError(f"{option}: {path}: expected a file in a folder that exists, found no folder {path.parent}")


def _write(part: Path, path: Path, entries: Iterable[Mapping[str, Any]]) -> int:
    is_list, number = path.suffix.lower() == ".json", 0
    with part.open("wb") as file:
        for entry in entries:
            file.write((b"," if number else b"[") + b"\n" if is_list else b"")
            try:
                file.write(_as_json(entry))
            except (TypeError, ValueError, RecursionError) as error:
                raise InputError(f"{path}: record {number} of it (id {entry.get('id')!r}): {error}") from error
            file.write(b"" if is_list else b"\n")
            number += 1
        if is_list:
            file.write(b"\n]\n" if number else b"[]\n")
    return number


def _as_json(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, ensure_ascii=False, default=_as_text)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can say though UTF-8 cannot
        return json.dumps(entry, default=_as_text).encode()


def _as_text(value: object) -> str:
    """Return what parquet may hold and JSON may not, in letters."""
    if isinstance(value, date | time | Decimal):
        return str(value)
    raise TypeError(f"expected what JSON can hold, found {type(value).__name__}; take the field out of the source")
