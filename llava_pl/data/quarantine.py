"""The quarantine: which records a run leaves out, as a file that a person can read.

In: what `llava-pl data check` went through and found. Out: which entries of a source are left out. The file holds a
hash of each source that was checked, clean ones too, and serves any choice and order of them, but no other data::

    {"sources": {LABEL: {"records": 4, "content": HASH}},
     "records": [{"source": LABEL, "index": 1, "id": "b", "reason": "roles", "message": "..."}]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from llava_pl.data.entries import content_of
from llava_pl.data.json_files import read_json
from llava_pl.types import BadRecord, InputError, Record, RecordError
from llava_pl.whole_file import whole_file

MOST_SAID = 20
"""Bad records that are said one by one before a run stops."""

_HEAD = b'{\n "sources": '
_AGAIN = "delete it and write it again with `llava-pl data check --quarantine`"


def write_quarantine(
    path: str | Path, sources: Mapping[str, Sequence[Record | BadRecord]], bad: Iterable[BadRecord]
) -> None:
    """Write a quarantine file; a reader sees the old one or the new one, never half of it.

    Args:
        path: The file; one that is there is replaced.
        sources: All entries of each source that was checked, by its label.
        bad: Those that were found bad.

    Raises:
        InputError: The file cannot be written.
    """
    names = ("source", "index", "id", "reason", "message")
    content = {
        "sources": {
            label: {"records": len(entries), "content": content_of(entries)} for label, entries in sources.items()
        },
        "records": [{name: getattr(entry, name) for name in names} for entry in bad],
    }
    try:
        with whole_file(Path(path)) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


def is_quarantine(path: Path) -> bool:
    """Return whether a file begins as `write_quarantine` begins it; however large it is, no more is read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_HEAD)) == _HEAD
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """What a quarantine says about a source.

    Args:
        num_records: How many entries it had, bad ones included.
        content: Hash of what was checked; see `entries.content_of`.
        left_out: The bad ones, by their place.
    """

    num_records: int
    content: str
    left_out: dict[int, BadRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Which records are left out.

    Args:
        path: The file.
        sources: What was checked, by its label.
    """

    path: Path
    sources: dict[str, CheckedSource]

    @classmethod
    def read(cls, path: str | Path) -> Quarantine:
        """Return what a file says.

        Raises:
            InputError: The file is missing, or not what `write_quarantine` writes.
        """
        content = read_json(path)
        if isinstance(content, list):
            raise InputError(
                f"{path}: expected a JSON object that says which data was checked, found a list, as older versions "
                f"wrote it; {_AGAIN}"
            )
        fields = content if isinstance(content, dict) else {}
        sources, records = fields.get("sources"), fields.get("records")
        if not (isinstance(sources, dict) and isinstance(records, list)):
            raise InputError(f"{path}: expected a JSON object with sources and records, found another value; {_AGAIN}")
        quarantine = cls(Path(path), {label: _read_source(path, label, value) for label, value in sources.items()})
        for number, entry in enumerate(records):
            bad = _read_entry(entry, quarantine.sources)
            if bad is None:
                raise InputError(
                    f"{path}: records, entry {number}: expected an object with a source of the file, an index in it, "
                    f"id and reason, found {str(entry)[:60]!r}; {_AGAIN}"
                )
            quarantine.sources[bad.source].left_out[bad.index] = bad
        return quarantine

    def check_labels(self, labels: Iterable[str]) -> None:
        """Check what can be known of a run before its sources are read.

        Args:
            labels: All sources of the run.

        Raises:
            InputError: One of them was not checked.
        """
        for label in labels:
            self._look_up(label)

    def find(self, label: str, entries: Sequence[Record | BadRecord]) -> dict[int, BadRecord]:
        """Return which entries of a source are left out, by their place.

        Args:
            label: Of the source.
            entries: All its entries.

        Raises:
            InputError: The source is not the one that was checked.
        """
        checked = self._look_up(label)
        if checked.content != content_of(entries):
            raise InputError(
                f"data.quarantine: {self.path}: {label}: expected content {checked.content[:8]}, "
                f"{checked.num_records:,} records, found {content_of(entries)[:8]}, {len(entries):,} records; this is "
                "not the data that was checked: run `llava-pl data check` again"
            )
        return checked.left_out

    def leave_out(
        self, label: str, entries: Sequence[Record | BadRecord], say: Callable[[str], None]
    ) -> dict[int, BadRecord]:
        """Return what `find` returns, and say how many these are.

        Args:
            label: Of the source.
            entries: All its entries.
            say: Called with one line.

        Raises:
            InputError: As `find`, or nothing of the source is left.
        """
        left_out = self.find(label, entries)
        counts = [f"{reason} {count:,}" for reason, count in count_reasons(left_out.values()).items()]
        if left_out and len(left_out) == len(entries):
            raise InputError(
                f"data.quarantine: {self.path}: {label}: all {len(entries):,} records are left out "
                f"({', '.join(counts)}); mend them, or take the source out of the run"
            )
        found = f"{len(left_out):,} of {len(entries):,} records are left out"
        say(f"data.quarantine: {self.path}: {label}: {', '.join([found, *counts])}")
        return left_out

    def _look_up(self, label: str) -> CheckedSource:
        if label not in self.sources:
            raise InputError(
                f"data.quarantine: {self.path}: expected a source that was checked ({', '.join(self.sources)}), found "
                f"{label}; run `llava-pl data check` on all data of this run, or give the source the name that it had"
            )
        return self.sources[label]


def _read_source(path: str | Path, label: str, value: object) -> CheckedSource:
    fields = value if isinstance(value, dict) else {}
    num_records, content = fields.get("records"), fields.get("content")
    if type(num_records) is not int or not isinstance(content, str):
        raise InputError(
            f"{path}: sources, {label}: expected an object with records and content, found {str(value)[:60]!r}; "
            f"{_AGAIN}"
        )
    return CheckedSource(num_records, content)


def _read_entry(entry: object, sources: Mapping[str, CheckedSource]) -> BadRecord | None:
    """Return what an entry of the file says, None if it is malformed."""
    fields = entry if isinstance(entry, dict) else {}
    source, index, name, reason = (fields.get(key) for key in ("source", "index", "id", "reason"))
    if not (isinstance(source, str) and type(index) is int and isinstance(name, str) and isinstance(reason, str)):
        return None
    if source not in sources or not 0 <= index < sources[source].num_records:
        return None
    return BadRecord(index, name, reason, str(fields.get("message", "")), source=source)


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
