"""The record store: a source is read and checked once, every later run and every worker maps the result into memory.

In: a folder that `store_cache.open_store` found or built. Out: a `RecordStore`, a sequence of `Record` for
``data/dataset.py`` that costs no memory per process. Of a `list[Record]`, in contrast, each worker ends up with a copy:
counting references writes to every page that is read.

A store is a folder in the cache: what `store_writer` writes, and ``manifest.json`` with the source's path, sizes,
times and content hash. It appears under its name only when complete, so that a killed build leaves nothing that could
be opened.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llava_pl.data.store_writer import BAD_FILE, RECORDS_FILE, SOURCE_INDEX_FILE
from llava_pl.types import BadRecord, InputError, Record, Turn

STORE_VERSION = 2
"""Raised with every change of the files or of what counts as a valid record; other versions are built anew."""

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store was built from.

    Args:
        version: `STORE_VERSION` of the program that built it.
        source: Absolute path of the source.
        files: Name, size in bytes and time of change in nanoseconds of each file of the source.
        content: Hash of the bytes of these files.
        num_records: Good records.
    """

    version: int
    source: str
    files: list[list[Any]]
    content: str
    num_records: int

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Return the manifest of a store; None if there is none, or one of another version."""
        try:
            content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            manifest = cls(**content)
        except (OSError, ValueError, TypeError):
            return None
        return manifest if manifest.version == STORE_VERSION else None

    def write(self, folder: Path) -> None:
        """Write the manifest; a reader sees the old one or the new one, never half of it."""
        temporary = folder / f".{MANIFEST_FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.replace(folder / MANIFEST_FILE)


class RecordStore(Sequence[Record]):
    """The good records of a source, mapped into memory.

    It pickles as its path: a worker maps the same file again, and the pages are shared. A record's text is decoded
    when it is asked for; the arrays need no text.

    Args:
        path: Folder of the store.
        content: Hash that the source must have had; None takes any. A store that was replaced by one of other content
            is thus no longer opened under the old one's name.

    Attributes:
        source_index: int64 ``(num_records,)``, the place of each record in the source, bad entries counted.
        bad: The entries of the source that are no records, in its order.

    Raises:
        InputError: No complete store of this version and content is there.
    """

    def __init__(self, path: str | Path, content: str | None = None) -> None:
        self.path = Path(path)
        manifest = Manifest.read(self.path)
        if manifest is None or content not in (None, manifest.content):
            found = "nothing of the kind" if manifest is None else f"content {manifest.content[:8]}"
            wanted = f"version {STORE_VERSION}" + (f" with content {content[:8]}" if content else "")
            raise InputError(f"{path}: expected a record store, {wanted}, found {found}; open its source again")
        self.content = manifest.content
        try:
            with pa.ipc.open_file(pa.memory_map(str(self.path / RECORDS_FILE))) as reader:
                self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            entries = json.loads((self.path / BAD_FILE).read_text(encoding="utf-8"))
            self.bad = [BadRecord(**entry | {"images": tuple(entry["images"])}) for entry in entries]
            self.source_index: NDArray[np.int64] = np.load(self.path / SOURCE_INDEX_FILE, mmap_mode="r")
        except (OSError, EOFError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: the store is damaged ({reason}); delete the folder, it is built anew") from error
        # First record of each batch, and after the last one the number of all.
        self._starts = [0, *accumulate(batch.num_rows for batch in self._batches)]
        if not self._starts[-1] == manifest.num_records == len(self.source_index):
            raise InputError(
                f"{path}: the store is damaged (expected {manifest.num_records} records, found {self._starts[-1]} with "
                f"{len(self.source_index)} numbers); delete the folder, it is built anew"
            )

    def __reduce__(self) -> tuple[type[RecordStore], tuple[Path, str]]:
        return RecordStore, (self.path, self.content)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # counts from the end, and refuses what is beyond it
        number = bisect_right(self._starts, place) - 1
        batch = self._batches[number]
        name, images, roles, texts = (batch.column(column)[place - self._starts[number]].as_py() for column in range(4))
        return Record(name, tuple(map(Turn, roles, texts)), tuple(images))

    def list_pictures(self) -> list[tuple[int, str]]:
        """Return the index of a record and the name of a picture of it, for all pictures of all records in order."""
        pairs: list[tuple[int, str]] = []
        for start, batch in zip(self._starts, self._batches, strict=False):
            images = batch.column("images")
            parents = (pc.list_parent_indices(images).to_numpy() + start).tolist()
            pairs += zip(parents, images.flatten().to_pylist(), strict=True)
        return pairs

    @property
    def num_entries(self) -> int:
        """How many entries the source has, bad ones included."""
        return len(self) + len(self.bad)

    def entry(self, place: int) -> Record | BadRecord:
        """Return what stands at a place of the source.

        Raises:
            IndexError: The source ends before it.
        """
        if not 0 <= place < self.num_entries:
            raise IndexError(place)
        index = int(np.searchsorted(self.source_index, place))
        if index < len(self) and self.source_index[index] == place:
            return self[index]
        return self.bad[place - index]  # as many good ones as the index says stand before it
