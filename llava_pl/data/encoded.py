"""What encoding came to, for every record of a store: lengths, mistakes and, on request, the tokens themselves.

In: a `RecordStore` and the encoder of samples. Out: arrays that lie beside the store from then on, mapped into memory.
Grouping by length, packing, the figures at the start of a run and the list of bad records need them; no picture is
opened for it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from llava_pl.data.collate import count_supervised
from llava_pl.data.dataset import PICTURE_REASONS
from llava_pl.data.lengths import count_words
from llava_pl.data.store_cache import advise, locked, sync
from llava_pl.data.tokenization import EncodedConversation
from llava_pl.lifeline import end_with
from llava_pl.progress import show_progress
from llava_pl.types import IGNORE_INDEX, InputError, Record, RecordError, Sample

if TYPE_CHECKING:
    from llava_pl.data.sample_encoder import SampleEncoder
    from llava_pl.data.store import RecordStore

ENCODED_VERSION = 2
"""Raised with every change of the files, or of what a text is encoded to."""

_RECORDS_AT_ONCE = 500
_COUNTS, _BAD, _ENDS, _IDS, _IS_SUPERVISED = "counts.npy", "bad.json", "ends.npy", "ids.bin", "is_supervised.bin"


@dataclass(frozen=True, slots=True)
class EncodedRecords:
    """How long the samples of a store are, and which of its records make none.

    Args:
        num_tokens: int32 ``(num_records,)``, image tokens included; 1 for a record that is bad or dropped.
        num_supervised: int32 ``(num_records,)``; 0 for a record that is bad or dropped.
        num_words: int32 ``(num_records,)``, of all turns, negative without a picture (see `lengths.count_words`).
        bad: Reason and message of each bad record by its place in the store, in order; the record is not named.
        tokens: What was kept of the tokens, None if nothing was asked for.
    """

    num_tokens: NDArray[np.int32]
    num_supervised: NDArray[np.int32]
    num_words: NDArray[np.int32]
    bad: dict[int, tuple[str, str]]
    tokens: TokenCache | None = None

    @classmethod
    def of(
        cls, store: RecordStore, encoder: SampleEncoder, *, has_tokens: bool = False, num_workers: int = 0
    ) -> EncodedRecords:
        """Return what encoding the records of a store comes to, found out now or taken from beside the store.

        Args:
            store: The records.
            encoder: Makes their samples.
            has_tokens: Keep the token ids, too: about five bytes for each token of text.
            num_workers: Processes that encode; with 0, or where there is little to do, this one does.

        Raises:
            InputError: A setting is wrong for every record, or the result cannot be written.
        """
        key = blake2b(f"{ENCODED_VERSION} {has_tokens} {encoder.fingerprint}".encode(), digest_size=12).hexdigest()
        folder = store.path / f"encoded-{key}"
        if (found := cls._open(folder, store, has_tokens=has_tokens)) is not None:
            return found
        try:
            with locked(folder):
                # Another process may have done it while this one waited.
                if (found := cls._open(folder, store, has_tokens=has_tokens)) is not None:
                    return found
                with _building(folder) as temporary:
                    _write(temporary, _encode(store, encoder, has_tokens, num_workers))
        except OSError as error:
            raise InputError(
                f"{folder.parent}: cannot store what the records are encoded to ({error.strerror or error}); "
                + advise(error, " or switch data.cache_tokens off" if has_tokens else "")
            ) from error
        found = cls._open(folder, store, has_tokens=has_tokens)
        assert found is not None, "it was written by this process"
        return found

    @classmethod
    def _open(cls, folder: Path, store: RecordStore, *, has_tokens: bool) -> EncodedRecords | None:
        """Return what lies in a folder; None if nothing is there or it is damaged."""
        try:
            num_tokens, num_supervised, num_words = np.load(folder / _COUNTS, mmap_mode="r")
            entries = json.loads((folder / _BAD).read_text(encoding="utf-8"))
            bad = {index: (reason, message) for index, reason, message in entries}
            tokens = TokenCache(folder) if has_tokens else None
        except (OSError, EOFError, ValueError, TypeError):
            return None
        is_whole = len(num_tokens) == len(store) and (tokens is None or (tokens.is_whole and len(tokens) == len(store)))
        return cls(num_tokens, num_supervised, num_words, bad, tokens) if is_whole else None


class TokenCache(Sequence[EncodedConversation]):
    """The tokens of a store's records, one position for each image slot; it pickles as its path.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = np.load(folder / _ENDS, mmap_mode="r")
        self._ids = _map(folder / _IDS, np.int32)
        self._is_supervised = _map(folder / _IS_SUPERVISED, np.bool_)

    def __reduce__(self) -> tuple[type[TokenCache], tuple[Path]]:
        return TokenCache, (self._folder,)

    @property
    def is_whole(self) -> bool:
        """Whether its files are as long as they say."""
        return len(self._ids) == len(self._is_supervised) == (int(self._ends[-1]) if len(self._ends) else 0)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> EncodedConversation:  # type: ignore[override]  # no slices: nobody asks
        place = range(len(self))[index]
        span = slice(int(self._ends[place - 1]) if place else 0, int(self._ends[place]))
        ids = torch.from_numpy(self._ids[span].astype(np.int64))
        is_supervised = torch.from_numpy(self._is_supervised[span].copy())
        return EncodedConversation(ids, ids.masked_fill(~is_supervised, IGNORE_INDEX))


def _map(path: Path, dtype: type) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


@dataclass(slots=True)
class _Part:
    """What encoding a few records in a row came to."""

    counts: list[tuple[int, int, int]]
    bad: list[tuple[int, str, str]]
    sizes: list[int]
    ids: NDArray[np.int32]
    is_supervised: NDArray[np.bool_]


def _encode(store: RecordStore, encoder: SampleEncoder, has_tokens: bool, num_workers: int) -> Iterator[_Part]:
    encode = partial(_encode_range, store, encoder, has_tokens)
    starts = range(0, len(store), _RECORDS_AT_ONCE)
    what = f"encoding {len(store):,} records, once"
    show = partial(show_progress, what=what, total=len(starts), is_shown=len(starts) > 1)
    if num_workers == 0 or len(starts) < 4:
        yield from show(map(encode, starts))
        return
    with ProcessPoolExecutor(num_workers, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
        yield from show(pool.map(encode, starts))


def _start_worker(parent: int) -> None:
    torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork
    end_with(parent)


def _encode_range(store: RecordStore, encoder: SampleEncoder, has_tokens: bool, start: int) -> _Part:
    part = _Part([], [], [], np.empty(0, np.int32), np.empty(0, np.bool_))
    kept: list[EncodedConversation] = []
    for index in range(start, min(start + _RECORDS_AT_ONCE, len(store))):
        record = store[index]
        num_tokens, num_supervised, tokenized = 1, 0, _NOTHING
        try:
            tokenized = encoder.tokenize(record)
            sample = _encode_text(encoder, record, tokenized)
            num_tokens, num_supervised = len(sample.input_ids), count_supervised(sample.labels[None])
            if not num_supervised and sample.skipped is None:
                after = f", after {sample.num_cut:,} tokens were cut off" if sample.num_cut else ""
                raise RecordError(f"nothing is supervised{after}", "nothing_supervised")
        except RecordError as error:
            part.bad.append((index, error.reason, str(error).removeprefix(f"record {record.id!r}: ")))
            num_tokens, num_supervised = 1, 0
        part.counts.append((num_tokens, num_supervised, count_words([record])[0]))
        if has_tokens:
            kept.append(tokenized)
    if kept:
        part.sizes = [len(tokenized.input_ids) for tokenized in kept]
        labels = torch.cat([tokenized.labels for tokenized in kept])
        part.ids = torch.cat([tokenized.input_ids for tokenized in kept]).numpy().astype(np.int32)
        part.is_supervised = (labels != IGNORE_INDEX).numpy()
    return part


def _encode_text(encoder: SampleEncoder, record: Record, tokenized: EncodedConversation) -> Sample:
    try:
        return encoder.encode_text(record, tokenized)
    except RecordError as error:
        if error.reason not in PICTURE_REASONS:
            raise
        # A tiled picture whose header cannot be read. As with whole ones, it is looked at again when its turn comes;
        # what is kept here must not remember the moment that it was away. Until then it is as long as a whole one.
        return replace(encoder, tiling=None).encode_text(record, tokenized)


_NOTHING = EncodedConversation(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """Hand out a folder that gets its name when everything is in it; what a killed process left there is removed."""
    temporary = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        temporary.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, parts: Iterable[_Part]) -> None:
    counts: list[tuple[int, int, int]] = []
    bad: list[tuple[int, str, str]] = []
    sizes: list[int] = []
    with (folder / _IDS).open("wb") as ids, (folder / _IS_SUPERVISED).open("wb") as is_supervised:
        for part in parts:
            counts += part.counts
            bad += part.bad
            sizes += part.sizes
            ids.write(part.ids.tobytes())
            is_supervised.write(part.is_supervised.tobytes())
    columns: NDArray[Any] = np.array(counts, dtype=np.int32).reshape(-1, 3).T
    np.save(folder / _COUNTS, np.ascontiguousarray(columns))
    np.save(folder / _ENDS, np.cumsum(sizes, dtype=np.int64))
    (folder / _BAD).write_text(json.dumps(bad), encoding="utf-8")
