"""The quarantine: which records training leaves out, as a file that a person can read.

In: the entries of the training data, and a JSON list of ``{"index", "id", "reason", "message"}`` that
``llava-pl data check`` wrote. Out: which entries are left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from llava_pl.data.json_files import read_json
from llava_pl.types import BadRecord, InputError, Record, RecordError

MOST_SAID = 20
"""Bad records that are said one by one before a run stops."""


def check_settings(bad_records: str, quarantine: str | Path | None) -> None:
    """Check that a file is named exactly if records are to be left out.

    Raises:
        InputError: One is given without the other.
    """
    if (bad_records == "quarantine") != (quarantine is not None):
        raise InputError(
            f"data.bad_records: found {bad_records} with data.quarantine {quarantine}; expected 'quarantine' with "
            "the file that `llava-pl data check --quarantine FILE` wrote, or 'error' without a file"
        )


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
    entries: Sequence[Record | BadRecord], bad: Sequence[BadRecord], path: str | Path | None, say: Callable[[str], None]
) -> list[int]:
    """Return the places of the entries that a quarantine file names, in rising order, and say how many they are.

    Args:
        entries: All entries of the training data.
        bad: Those that cannot be learned from; the file must name them all.
        path: The file; None for no quarantine.
        say: Called with one line at a time.

    Raises:
        InputError: The quarantine is of other data: an index is out of range, or its record has another id.
        RecordError: A bad record is not in the quarantine; before it, the first of them are said.
    """
    quarantined = {} if path is None else read_quarantine(path)
    for index, entry in quarantined.items():
        found = f"record {entries[index].id!r}" if 0 <= index < len(entries) else f"{len(entries)} records"
        if found != f"record {entry.id!r}":
            raise InputError(
                f"data.quarantine: {path}: expected record {entry.id!r} at index {index}, found {found}; this is not "
                "the data that was checked: run `llava-pl data check` again"
            )
    if unnamed := [entry for entry in bad if entry.index not in quarantined]:
        _refuse(unnamed, len(entries), say)
    if path is not None:
        counts = [f"{reason} {count:,}" for reason, count in count_reasons(quarantined.values()).items()]
        found = f"{len(quarantined):,} of {len(entries):,} records are left out"
        say(f"data.quarantine: {path}: {', '.join([found, *counts])}")
    return sorted(quarantined)


def _refuse(bad: Sequence[BadRecord], num_entries: int, say: Callable[[str], None]) -> NoReturn:
    if len(bad) > 1:
        for entry in bad[:MOST_SAID]:
            say(f"bad record at index {entry.index:,}, {entry.reason}: {entry.message}")
        if len(bad) > MOST_SAID:
            say(f"and {len(bad) - MOST_SAID:,} more; `llava-pl data check` lists them by reason")
    counts = ", ".join(f"{reason} {count:,}" for reason, count in count_reasons(bad).items())
    raise RecordError(
        f"{bad[0].message}. {len(bad):,} of {num_entries:,} records cannot be learned from ({counts}); mend them, or "
        "leave them out with data.quarantine",
        bad[0].reason,
    )


def count_reasons(bad: Iterable[BadRecord]) -> dict[str, int]:
    """Return how many records each reason concerns, the most frequent first."""
    return dict(Counter(entry.reason for entry in bad).most_common())
