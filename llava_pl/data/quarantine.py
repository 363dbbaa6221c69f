"""The quarantine: which records a run leaves out, as a file that a person can read.

In: the entries of a source, and a JSON list of ``{"source", "index", "id", "reason", "message"}`` that
``llava-pl data check`` wrote. Out: which of the entries are left out. Places count within a source, so a quarantine
serves any choice and order of the sources that were checked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from llava_pl.data.json_files import read_json
from llava_pl.types import BadRecord, InputError, Record, RecordError

MOST_SAID = 20
"""Bad records that are said one by one before a run stops."""


def write_quarantine(path: str | Path, bad: Iterable[BadRecord]) -> None:
    """Write bad records as a quarantine file.

    Raises:
        InputError: The file cannot be written.
    """
    names = ("source", "index", "id", "reason", "message")
    entries = [{name: getattr(entry, name) for name in names} for entry in bad]
    try:
        Path(path).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Which records are left out.

    Args:
        path: The file.
        sources: For each source, by its label, what the file says about a place in it.
    """

    path: Path
    sources: dict[str, dict[int, BadRecord]]

    @classmethod
    def read(cls, path: str | Path) -> Quarantine:
        """Return what a file says.

        Raises:
            InputError: The file is missing, or not what `write_quarantine` writes; a place stands there twice.
        """
        entries = read_json(path)
        if not isinstance(entries, list):
            raise InputError(f"{path}: expected the JSON list that `llava-pl data check` writes, found another value")
        sources: dict[str, dict[int, BadRecord]] = {}
        for number, entry in enumerate(entries):
            fields = entry if isinstance(entry, dict) else {}
            source, index, name, reason = (fields.get(key) for key in ("source", "index", "id", "reason"))
            if "index" in fields and "source" not in fields:
                raise InputError(
                    f"{path}: entry {number}: expected a source beside the index, found none: an older version counted "
                    "through all sources; write the file again with `llava-pl data check`"
                )
            if not (
                isinstance(source, str) and type(index) is int and isinstance(name, str) and isinstance(reason, str)
            ):
                raise InputError(
                    f"{path}: entry {number}: expected an object with source, index, id and reason, found "
                    f"{str(entry)[:60]!r}; write the file again with `llava-pl data check`"
                )
            places = sources.setdefault(source, {})
            if index in places:
                raise InputError(
                    f"{path}: entry {number}: expected each place once, found {source} {index} again; delete one of "
                    "the two"
                )
            places[index] = BadRecord(index, name, reason, str(fields.get("message", "")), source=source)
        return cls(Path(path), sources)

    def check_sources(self, labels: Sequence[str], say: Callable[[str], None]) -> None:
        """Say how many entries are of sources that a run does not have.

        Args:
            labels: All sources of the run.
            say: Called with one line, or not at all.

        Raises:
            InputError: All entries are: the file is of other data.
        """
        others = {source: len(places) for source, places in self.sources.items() if source not in labels}
        names = ", ".join(others)
        if others and len(others) == len(self.sources):
            raise InputError(
                f"data.quarantine: {self.path}: expected entries of {', '.join(labels)}, found those of {names} alone; "
                "run `llava-pl data check` on this data, or give its sources the names that they had"
            )
        if others:
            count = sum(others.values())
            say(f"data.quarantine: {self.path}: {count:,} entries are of sources that this run does not have: {names}")

    def leave_out(
        self, source: str, entries: Sequence[Record | BadRecord], say: Callable[[str], None] = lambda _: None
    ) -> dict[int, BadRecord]:
        """Return what is said about a source, by place, and say how many of its entries are left out.

        Args:
            source: Its label.
            entries: All its entries.
            say: Called with one line.

        Raises:
            InputError: The source is not the one that was checked: a place is out of range, or has another id.
        """
        places = self.sources.get(source, {})
        for index, entry in places.items():
            found = f"record {entries[index].id!r}" if 0 <= index < len(entries) else f"{len(entries)} records"
            if found != f"record {entry.id!r}":
                raise InputError(
                    f"data.quarantine: {self.path}: {source}: expected record {entry.id!r} at index {index}, found "
                    f"{found}; this is not the data that was checked: run `llava-pl data check` again"
                )
        counts = [f"{reason} {count:,}" for reason, count in count_reasons(places.values()).items()]
        found = f"{len(places):,} of {len(entries):,} records are left out"
        say(f"data.quarantine: {self.path}: {source}: {', '.join([found, *counts])}")
        return places


def refuse(bad: Sequence[BadRecord], num_entries: int, say: Callable[[str], None]) -> NoReturn:
    """Say the first of some bad records, if there are several, and stop the run.

    Args:
        bad: At least one that no quarantine names.
        num_entries: All records, good ones included.
        say: Called with one line at a time.

    Raises:
        RecordError: Always.
    """
    if len(bad) > 1:
        for entry in bad[:MOST_SAID]:
            say(f"bad record {entry.place}, {entry.reason}: {entry.message}")
        if len(bad) > MOST_SAID:
            say(f"and {len(bad) - MOST_SAID:,} more; `llava-pl data check` lists them by reason")
    counts = ", ".join(f"{reason} {count:,}" for reason, count in count_reasons(bad).items())
    raise RecordError(
        f"{bad[0].source}: {bad[0].message}. {len(bad):,} of {num_entries:,} records cannot be learned from "
        f"({counts}); mend them, or leave them out with data.quarantine",
        bad[0].reason,
    )


def count_reasons(bad: Iterable[BadRecord]) -> dict[str, int]:
    """Return how many records each reason concerns, the most frequent first."""
    return dict(Counter(entry.reason for entry in bad).most_common())
