"""Files of records in any form, read and written one at a time: a million of them pass through little memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_pl.building.formats import Form, read_entry
from llava_pl.data.sources import read_entries
from llava_pl.types import InputError, Record
from llava_pl.whole_file import whole_file


def read_records(path: Path, form: Form = "llava") -> Iterator[Record]:
    """Yield the records of a file.

    Args:
        path: As `sources.read_entries` takes it: a JSON list, JSON lines, parquet, a folder of `datasets`.
        form: What its entries are.

    Raises:
        InputError: It is broken, or an entry is no record.
    """
    for index, entry in enumerate(read_entries(path)):
        yield read_entry(entry, form, f"{path.stem}-{index}", f"{path}: record {index}")


def write_entries(path: Path, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write a list (.json) or lines (.jsonl), an entry a line, and return how many; the file is whole or not there."""
    is_list, number = path.suffix == ".json", 0
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        for entry in entries:
            file.write((("," if number else "[") + "\n" if is_list else "") + json.dumps(entry, ensure_ascii=False))
            file.write("" if is_list else "\n")
            number += 1
        if is_list:
            file.write("\n]\n" if number else "[]\n")
    return number


def check_output(path: Path, option: str, *, is_table: bool = False) -> None:
    """Check that a file of records can be written, before they are read.

    Raises:
        InputError: It exists, its folder does not, or its name does not say its form.
    """
    if path.suffix not in ((".csv",) if is_table else (".json", ".jsonl")):
        expected = ".csv" if is_table else ".json (a list) or .jsonl (lines)"
        raise InputError(f"{option}: {path}: expected a name that ends in {expected}")
    if path.exists():
        raise InputError(f"{option}: {path}: expected a new file, found one; choose another name")
    if not path.parent.is_dir():
        raise InputError(f"{option}: {path}: expected a file in a folder that exists, found no folder {path.parent}")
