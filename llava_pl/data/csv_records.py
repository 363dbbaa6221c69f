"""A table of pictures, questions and answers to LLaVA records.

In: a CSV file with the columns ``image``, ``question`` and ``answer``. Out: the entries of a JSON file that
``data/records.py`` reads.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_pl.data.picture_files import find_picture
from llava_pl.data.records import parse_record
from llava_pl.types import IMAGE_SLOT, InputError, RecordError

COLUMNS = ("image", "question", "answer")
"""What a table must have; ``id`` may be there as well."""


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of the table, without the space around its cells.

    Args:
        where: File and line, for messages.
        id: Empty where the table has none.
        image: File name, empty for a question without a picture.
        question: What is asked.
        answer: What is learned.
    """

    where: str
    id: str
    image: str
    question: str
    answer: str


def convert_csv(
    path: Path, image_folder: Path, *, delimiter: str = ",", joins_turns: bool = False
) -> list[dict[str, Any]]:
    """Return the records of a table in its order, each read as training would; pictures are not decoded.

    The first question about a picture gets its mark in front, as LLaVA's own records have it, unless one holds it. A
    record without an id is called by the file and the number of its first row.

    Args:
        path: The table, UTF-8, or UTF-16 with a byte order mark.
        image_folder: Folder that the file names of pictures start from.
        delimiter: The character between two cells, unless the first line is ``sep=`` and another, as for Excel.
        joins_turns: Make one conversation of all rows of a picture, at the place of the first of them.

    Raises:
        InputError: The file cannot be read, or lines are wrong; the first of them is named.
    """
    conversations: dict[str | int, list[CsvRow]] = {}
    for number, row in enumerate(read_csv_rows(path, delimiter), start=1):
        key = row.image if joins_turns and row.image else number
        conversations.setdefault(key, []).append(row if row.id else replace(row, id=f"{path.stem}-{number}"))
    entries: list[dict[str, Any]] = []
    wrong: list[str] = []
    for rows in conversations.values():
        try:
            entries.append(_make_entry(rows, image_folder))
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        others = f" ({len(wrong) - 1:,} more records are wrong)" if wrong[1:] else ""
        raise InputError(wrong[0] + others)
    return entries


def read_csv_rows(path: Path, delimiter: str = ",") -> list[CsvRow]:
    """Return the rows of a table; further columns are passed over.

    Raises:
        InputError: The file cannot be read, lacks a column or has no rows; or a line has too many or too few cells.
    """
    rows = [
        CsvRow(where, cells.get("id", ""), *(cells[name] for name in COLUMNS))
        for where, cells in read_cells(path, COLUMNS, delimiter)
    ]
    if not rows:
        raise InputError(f"{path}: expected rows below the head, found none")
    return rows


def read_cells(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the cells of each line by column, with where it begins; blank lines are passed over.

    Args:
        path: The table, UTF-8 or UTF-16.
        columns: What its head must have, once each and in any case.
        delimiter: The character between two cells, unless the first line says another.

    Raises:
        InputError: The file cannot be read, lacks a column, or a line has too many or too few cells.
    """
    text, line = _read_text(path), 1
    if of_excel := re.match(r"sep=([^\"\s]|\t)(\r?\n|\r)", text, re.IGNORECASE):
        delimiter, text, line = of_excel[1], text[of_excel.end() :], 2
    above = line
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        _check_head(f"{path}: line {line}", head, columns, delimiter)
        line = reader.line_num + above
        for cells in reader:
            if cells and len(cells) != len(head):
                raise InputError(
                    f"{path}: line {line}: expected {len(head)} cells ({', '.join(head)}), found {len(cells)}; put "
                    f"text with {delimiter!r} in it between double quotes"
                )
            texts = [cell.strip() for cell in cells]
            if any(texts):
                yield f"{path}: line {line}", dict(zip(head, texts, strict=True))
            line = reader.line_num + above
    except csv.Error as error:
        raise InputError(
            f"{path}: line {line}: cannot be read as CSV ({error}); look for a lone double quote"
        ) from error


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    codec, name = ("utf-16", "UTF-16") if is_wide else ("utf-8-sig", "UTF-8")
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        until = error.object[: error.start + 1].decode(codec, "replace")  # the wrong byte is its last character
        raise InputError(
            f"{path}: line {len(list(io.StringIO(until, newline='')))}: expected {name} text, found byte "
            f"{error.object[error.start]:#04x}; save it as CSV UTF-8"
        ) from error


def _check_head(where: str, head: list[str], columns: Sequence[str], delimiter: str) -> None:
    missing = [name for name in columns if name not in head]
    twice = [name for name in (*columns, "id") if head.count(name) > 1]
    if missing or twice:
        other = next((mark for mark in ";\t" if mark != delimiter and any(mark in name for name in head)), None)
        hint = {";": "; try --delimiter ';'", "\t": "; try --delimiter tab", None: ""}[other]
        found = ", ".join(head) or "nothing"
        raise InputError(f"{where}: expected a head with one each of {', '.join(columns)}, found {found}{hint}")


def _make_entry(rows: list[CsvRow], image_folder: Path) -> dict[str, Any]:
    """Return the record of rows about one picture, or of one row."""
    first, turns = rows[0], []
    for row in rows:
        for column, text in (("question", row.question), ("answer", row.answer)):
            if not text:
                raise InputError(f"{row.where}: column {column!r}: expected text, found nothing")
        turns += [{"from": "human", "value": row.question}, {"from": "gpt", "value": row.answer}]
    entry: dict[str, Any] = {"id": first.id}
    if first.image:
        _check_picture(first, image_folder)
        entry["image"] = first.image
        if not any(IMAGE_SLOT in row.question for row in rows):
            turns[0]["value"] = f"{IMAGE_SLOT}\n{first.question}"
    entry["conversations"] = turns
    parse_record(entry, where=first.where)
    return entry


def _check_picture(row: CsvRow, image_folder: Path) -> None:
    try:
        path = find_picture(image_folder, row.image)
    except RecordError as error:
        raise InputError(f"{row.where}: {error}") from error
    try:
        is_there = path.is_file()
    except ValueError:  # a null character in the name
        is_there = False
    if not is_there:
        raise InputError(f"{row.where}: column 'image': expected a file in {image_folder}, found no {row.image!r}")
