"""The quarantine: which records training leaves out, as a file that a person can read.

In: the records of the training data, and a JSON list of ``{"index", "id", "reason", "message"}`` that
``llava-pl data check`` wrote. Out: the records that are left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from llava_pl.data.json_files import read_json
from llava_pl.types import BadRecord, InputError, Record, RecordError


def write_quarantine(path: str | Path, bad: Iterable[BadRecord]) -> None:
    """Write bad records as a quarantine file.

    Raises:
        InputError: The file cannot be written.
    """
    entries = [{"index": b.index, "id": b.id, "reason": b.reason, "message": b.message} for b in bad]
    try:
        Path(path).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def read_quarantine(path: str | Path) -> dict[int, BadRecord]:
    """Return the entries of a quarantine file by index.

    Raises:
        InputError: The file is missing, or not what `write_quarantine` writes; an index stands there twice.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected the JSON list that `llava-pl data check` writes, found another value")
    found: dict[int, BadRecord] = {}
    for number, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        index, name, reason = fields.get("index"), fields.get("id"), fields.get("reason")
        if type(index) is not int or not isinstance(name, str) or not isinstance(reason, str) or index in found:
            raise InputError(
                f"{path}: entry {number}: expected an object with index (each one once), id and reason, found "
                f"{str(entry)[:60]!r}; write the file again with `llava-pl data check`"
            )
        found[index] = BadRecord(index, name, reason, str(fields.get("message", "")))
    return found


def leave_out(
    records: Sequence[Record | BadRecord], path: str | Path | None, say: Callable[[str], None]
) -> list[Record]:
    """Return the records that a quarantine file does not name, in order, and say how many it names.

    Args:
        records: All records of the training data.
        path: The file; None for no quarantine.
        say: Called with one line.

    Raises:
        InputError: The quarantine is of other data: an index is out of range, or its record has another id.
        RecordError: A bad record is not in the quarantine.
    """
    quarantined = {} if path is None else read_quarantine(path)
    for index, entry in quarantined.items():
        found = f"record {records[index].id!r}" if 0 <= index < len(records) else f"{len(records)} records"
        if found != f"record {entry.id!r}":
            raise InputError(
                f"data.quarantine: {path}: expected record {entry.id!r} at index {index}, found {found}; this is not "
                "the data that was checked: run `llava-pl data check` again"
            )
    kept: list[Record] = []
    for index, record in enumerate(records):
        if index in quarantined:
            continue
        if isinstance(record, BadRecord):
            raise RecordError(record.message, record.reason)
        kept.append(record)
    if path is not None:
        counts = [f"{reason} {count:,}" for reason, count in count_reasons(quarantined.values()).items()]
        found = f"{len(quarantined):,} of {len(records):,} records are left out"
        say(f"data.quarantine: {path}: {', '.join([found, *counts])}")
    return kept


def count_reasons(bad: Iterable[BadRecord]) -> dict[str, int]:
    """Return how many records each reason concerns, the most frequent first."""
    return dict(Counter(entry.reason for entry in bad).most_common())
