"""Entries to the files of a store: what is checked once, so that a run only has to map it into memory.

In: unchecked entries from `sources.read_entries`. Out: a folder with ``records.arrow`` (columns id, images, roles,
texts), one ``.npy`` array for each number per record, and ``bad.json`` with the entries that are no records.
`store_cache.open_store` decides where the folder goes and when it is valid.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llava_pl.data.records import RecordFields, describe_bad, parse_fields
from llava_pl.types import BadRecord, RecordError

RECORDS_FILE = "records.arrow"
BAD_FILE = "bad.json"
SOURCE_INDEX_FILE = "source_index.npy"

# Offsets of 64 bits where texts are long: with 32 bits a batch could not hold more than 2 GiB of them.
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(pa.string())),
        ("roles", pa.list_(pa.string())),
        ("texts", pa.list_(pa.large_string())),
    ]
)
_BATCH_RECORDS = 2048
_BATCH_CHARACTERS = 2**23


def write_records(entries: Iterable[Any], folder: Path, *, where: str) -> int:
    """Write the files of a store and return the number of good records.

    Args:
        entries: Parsed JSON values in the order of the source.
        folder: An existing, empty folder.
        where: Name of the source, put in front of every message.

    Raises:
        OSError: The folder cannot be written; nothing is cleaned up here.
    """
    bad: list[BadRecord] = []
    source_index = array("q")
    columns = _Columns()
    with (folder / RECORDS_FILE).open("wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for index, entry in enumerate(entries):
            try:
                fields = parse_fields(entry, where=f"{where}: record {index}")
            except RecordError as error:
                bad.append(describe_bad(entry, index, error))
                continue
            columns.add(fields)
            source_index.append(index)
            if len(columns.ids) == _BATCH_RECORDS or columns.num_characters >= _BATCH_CHARACTERS:
                writer.write_batch(columns.to_arrow())
                columns = _Columns()
        if columns.ids:
            writer.write_batch(columns.to_arrow())
    np.save(folder / SOURCE_INDEX_FILE, np.asarray(source_index))
    # Without the label: what the source is called is the business of each run.
    found = [{name: value for name, value in asdict(entry).items() if name != "source"} for entry in bad]
    (folder / BAD_FILE).write_text(json.dumps(found), encoding="utf-8")
    return len(source_index)


class _Columns:
    """Records of one batch, flat: fewer objects than a list of records, and what pyarrow converts fastest."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.num_characters = 0
        self._images: list[str] = []
        self._roles: list[str] = []
        self._texts: list[str] = []
        self._image_ends = array("i", [0])
        self._turn_ends = array("i", [0])

    def add(self, fields: RecordFields) -> None:
        """Append a record."""
        self.ids.append(fields.id)
        self._images += fields.images
        self._roles += fields.roles
        self._texts += fields.texts
        self._image_ends.append(len(self._images))
        self._turn_ends.append(len(self._texts))
        self.num_characters += fields.num_characters

    def to_arrow(self) -> pa.RecordBatch:
        """Return the batch."""
        image_ends, turn_ends = (pa.array(np.asarray(ends)) for ends in (self._image_ends, self._turn_ends))
        columns = [
            pa.array(self.ids, pa.string()),
            pa.ListArray.from_arrays(image_ends, pa.array(self._images, pa.string())),
            pa.ListArray.from_arrays(turn_ends, pa.array(self._roles, pa.string())),
            pa.ListArray.from_arrays(turn_ends, pa.array(self._texts, pa.large_string())),
        ]
        return pa.record_batch(columns, schema=_SCHEMA)
