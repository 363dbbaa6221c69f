"""A CSV file to cells by column, as spreadsheets write it.

In: a path. Out: the cells of each line with its place; what they mean is known to `csv_records.py` and `captions.py`.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava_pl.types import InputError


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
        text = content.decode(codec)
    except UnicodeDecodeError as error:
        until = error.object[: error.start + 1].decode(codec, "replace")  # the wrong byte is its last character
        raise InputError(
            f"{path}: line {len(list(io.StringIO(until, newline='')))}: expected {name} text, found byte "
            f"{error.object[error.start]:#04x}; save it as CSV UTF-8"
        ) from error
    if "\0" in text.partition("\n")[0]:  # every second byte of the head, or three of four
        raise InputError(
            f"{path}: line 1: expected UTF-8 text, or UTF-16 that begins with a byte order mark, found null "
            "characters; save it as CSV UTF-8"
        )
    return text


def _check_head(where: str, head: list[str], columns: Sequence[str], delimiter: str) -> None:
    missing = [name for name in columns if name not in head]
    twice = [name for name in (*columns, "id") if head.count(name) > 1]
    if missing or twice:
        other = next((mark for mark in ";\t" if mark != delimiter and any(mark in name for name in head)), None)
        hint = {";": "; try --delimiter ';'", "\t": "; try --delimiter tab", None: ""}[other]
        found = ", ".join(head) or "nothing"
        raise InputError(f"{where}: expected a head with one each of {', '.join(columns)}, found {found}{hint}")
