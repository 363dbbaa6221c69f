"""A table of pictures, questions and answers to records, and back.

In: a CSV file with the columns ``image``, ``question`` and ``answer``. Out: records, each read as training would. What
is written is read back as the same records, with the same options; what a table cannot say is refused.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pl.building.csv_cells import read_cells
from llava_pl.building.entry_pictures import check_names
from llava_pl.data.picture_files import find_picture
from llava_pl.data.records import parse_record
from llava_pl.types import IMAGE_SLOT, InputError, Record, RecordError
from llava_pl.whole_file import whole_file

COLUMNS = ("image", "question", "answer")
"""What a table must have; ``id`` may be there as well."""

_MARK = f"{IMAGE_SLOT}\n"
"""What is put in front of the first question about a picture."""


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of the table, without the space around its cells.

    Args:
        where: File and line, for messages.
        id: Of the record that begins with it.
        image: File name, empty for a question without a picture.
        question: What is asked.
        answer: What is learned.
    """

    where: str
    id: str
    image: str
    question: str
    answer: str


def read_table(path: Path, image_folder: Path, *, delimiter: str = ",", joins_turns: bool = False) -> list[Record]:
    """Return the records of a table in its order; pictures are not decoded.

    The first question about a picture gets its mark in front, as LLaVA's own records have it, unless one holds it. A
    record without an id is called by the file and the number of its first row. Further columns are passed over.

    Args:
        path: The table, UTF-8, or UTF-16 with a byte order mark.
        image_folder: Folder that the file names of pictures start from.
        delimiter: The character between two cells, unless the first line is ``sep=`` and another, as for Excel.
        joins_turns: Make one conversation of all rows of a picture, at the place of the first of them.

    Raises:
        InputError: The file cannot be read, lacks a column or has no rows, or lines are wrong; the first is named.
    """
    conversations: dict[str | int, list[CsvRow]] = {}
    for number, (where, cells) in enumerate(read_cells(path, COLUMNS, delimiter), start=1):
        row = CsvRow(where, cells.get("id") or f"{path.stem}-{number}", *(cells[name] for name in COLUMNS))
        conversations.setdefault(row.image if joins_turns and row.image else number, []).append(row)
    if not conversations:
        raise InputError(f"{path}: expected rows below the head, found none")
    records: list[Record] = []
    wrong: list[str] = []
    for rows in conversations.values():
        try:
            records.append(_make_record(rows, image_folder))
        except InputError as error:
            wrong.append(str(error))
    if wrong:
        others = f" ({len(wrong) - 1:,} more records are wrong)" if wrong[1:] else ""
        raise InputError(wrong[0] + others)
    return records


def write_table(
    path: Path, records: Iterable[Record], source: Path, *, delimiter: str = ",", joins_turns: bool = False
) -> int:
    """Write a row for each question with its answer, and return how many records; the file is whole or not there.

    Args:
        path: The table, UTF-8.
        records: `read_table` makes the same ones of it.
        source: Where they are from, for messages.
        delimiter: The character between two cells.
        joins_turns: Take several questions about a picture, each picture in one record.

    Raises:
        InputError: There are no records, or one says what a table cannot.
    """
    number, pictures = 0, set[str]()
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(("id", *COLUMNS))
        for number, record in enumerate(records, start=1):
            try:
                table.writerows(_make_rows(record, joins_turns))
                if joins_turns and not pictures.isdisjoint(record.images):
                    raise RecordError("expected one conversation about a picture with --turns, found its second")
            except RecordError as error:
                raise RecordError(f"{source}: record {number - 1} (id {record.id!r}): {error}") from None
            pictures.update(record.images if joins_turns else ())
        if not number:
            raise InputError(f"{source}: expected records, found none")
    return number


def _make_record(rows: list[CsvRow], image_folder: Path) -> Record:
    """Return the record of rows about one picture, or of one row."""
    first, turns = rows[0], []
    for row in rows:
        for column, text in (("question", row.question), ("answer", row.answer)):
            if not text:
                raise InputError(f"{row.where}: column {column!r}: expected text, found nothing")
        turns += [{"from": "human", "value": row.question}, {"from": "gpt", "value": row.answer}]
    entry: dict[str, Any] = {"id": first.id, "conversations": turns}
    if first.image:
        _check_picture(first, image_folder)
        entry["image"] = first.image
        if not any(IMAGE_SLOT in row.question for row in rows):
            turns[0]["value"] = _MARK + first.question
    return parse_record(entry, where=first.where)


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


def _make_rows(record: Record, joins_turns: bool) -> list[tuple[str, ...]]:
    """Return the rows that a record is made of."""
    check_names(record.images)
    if len(record.images) > 1:
        raise RecordError(f"expected at most one picture in a table, found {len(record.images)}")
    roles, texts = [turn.role for turn in record.turns], [turn.text for turn in record.turns]
    if roles != ["human", "gpt"] * (len(roles) // 2):
        raise RecordError(f"expected questions and answers by turns in a table, found {', '.join(roles)[:60]}")
    if len(texts) > 2 and not (joins_turns and record.images):
        hint = "add --turns" if record.images else "only rows of a picture are joined"
        raise RecordError(f"expected one question, found {len(texts) // 2}; {hint}")
    image = "".join(record.images)
    bare = texts[0].removeprefix(_MARK)
    if image and bare and bare == bare.strip():
        texts[0] = bare
    rows: list[tuple[str, ...]] = [(record.id, image, *pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    for row in rows:
        for column, text in zip(("id", *COLUMNS), row, strict=True):
            if image or column != "image":
                _check_cell(column, text)
    return rows


def _check_cell(column: str, text: str) -> None:
    """Check that a cell is read as it is written."""
    if not text:
        raise RecordError(f"column {column!r}: expected text, found nothing")
    if text != text.strip():
        raise RecordError(f"column {column!r}: expected no space around the text, which a reader drops, found some")
    if len(text) > (most := csv.field_size_limit()):
        raise RecordError(f"column {column!r}: expected at most {most:,} characters, found {len(text):,}")
