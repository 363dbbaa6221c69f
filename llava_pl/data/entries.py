"""The sources of a run to their entries, good and bad: what a check goes through, and what a quarantine counts in.

In: labelled sources. Out: for each of them a sequence of all that it holds. Nothing is encoded or left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from llava_pl.data.mixture import Mixture, check_repeats
from llava_pl.data.sources import Source
from llava_pl.data.store import RecordStore
from llava_pl.data.store_cache import open_store
from llava_pl.types import BadRecord, InputError, Record

VAL_LABEL = "data.val_records"
"""What the source of validation is called; no source to train on may have this name."""


@dataclass(frozen=True, slots=True)
class RunSource:
    """A source of a run.

    Args:
        label: What it is called in logs, and in a quarantine.
        source: Where its records come from.
        repeats: How often an epoch holds each of them; see `mixture.SourceConfig`.
    """

    label: str
    source: Source
    repeats: float = 1.0


class Entries(Sequence[Record | BadRecord]):
    """All entries of a source, bad ones included.

    Args:
        source: The source.
        store: Its opened store.

    Attributes:
        content: Hash of the bytes of its files and of how they are read; not of where they lie.
    """

    def __init__(self, source: RunSource, store: RecordStore) -> None:
        self.content = blake2b(f"{source.source.variant} {store.content}".encode(), digest_size=16).hexdigest()
        self._label = source.label
        self._store = store

    def __len__(self) -> int:
        return self._store.num_entries

    def __getitem__(self, place: int) -> Record | BadRecord:  # type: ignore[override]  # no slices: nobody asks
        entry = self._store.entry(place)
        return replace(entry, source=self._label) if isinstance(entry, BadRecord) else entry


def content_of(entries: Sequence[Record | BadRecord]) -> str:
    """Return the hash of what a source holds, "" for records that a data module made by itself."""
    return entries.content if isinstance(entries, Entries) else ""


class Places(Sequence[str]):
    """What messages call the good records of a source: its label and their index in it, as a quarantine names them.

    Args:
        label: Of the source.
        store: Its opened store.
    """

    def __init__(self, label: str, store: RecordStore) -> None:
        self._label = label
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices: nobody asks
        return f"{self._label} {self._store.source_index[index]}"


def check_sources(train: Sequence[RunSource], val: Sequence[RunSource]) -> list[str]:
    """Return the labels of all sources of a run, after a look at what can be known before they are read.

    Raises:
        InputError: A label stands for two sources, or is that of validation; one is held too rarely or too often.
    """
    first: dict[str, RunSource] = {}
    for source in train:
        path = source.source.path
        if source.label == VAL_LABEL:
            raise InputError(
                f"data.records: {path}: the name {VAL_LABEL} is reserved for validation; give another one: "
                f"{{path: {path}, name: NAME}}"
            )
        if source.label in first:
            raise InputError(
                f"data.records: expected names that differ, found {source.label} for {first[source.label].source.path} "
                f"and {path}; give one of them a name: {{path: {path}, name: NAME}}"
            )
        first[source.label] = source
    check_repeats(list(first), [source.repeats for source in train])
    return [source.label for source in (*train, *val)]


def open_entries(
    train: Sequence[RunSource], val: Sequence[RunSource], cache_dir: str | Path | None
) -> dict[str, Sequence[Record | BadRecord]]:
    """Return the entries of each source, those of validation last; what `fit` refuses of them is refused here.

    Raises:
        InputError: As `check_sources`, or a source is missing, broken or empty beside others.
    """
    check_sources(train, val)
    entries = {source.label: Entries(source, open_store(source.source, cache_dir)) for source in (*train, *val)}
    places = [np.arange(len(entries[source.label])) for source in train]
    Mixture([source.label for source in train], places, [source.repeats for source in train])
    return dict(entries)
