"""Token counts of all records, made once: what grouping by length, token budgets and reports need.

In: a `RecordStore` and a function from record to token counts. Out: two arrays that lie beside the store from then on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llava_pl.data.store import RecordStore
from llava_pl.types import InputError, Record

CountTokens = Callable[[Record], tuple[int, int]]
"""Returns the tokens of a record, image tokens included, and how many of them are supervised."""

_RECORDS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class EncodedLengths:
    """How long the samples of a store are.

    Args:
        num_tokens: int32 ``(num_records,)``, image tokens included.
        num_supervised: int32 ``(num_records,)``.
    """

    num_tokens: NDArray[np.int32]
    num_supervised: NDArray[np.int32]

    @classmethod
    def of(cls, store: RecordStore, count_tokens: CountTokens, *, key: str, num_workers: int = 0) -> EncodedLengths:
        """Return the lengths of all records, counted now or taken from the cache beside the store.

        Args:
            store: Records to count.
            count_tokens: Must pickle if there are workers.
            key: Everything that the counts depend on beside the records: template, hash of the tokenizer, P, version.
            num_workers: Processes that count; 0 counts in this one.

        Raises:
            InputError: A record cannot be encoded, or the counts cannot be written.
        """
        path = store.path / f"lengths-{blake2b(key.encode(), digest_size=16).hexdigest()}.npy"
        try:
            counts = np.load(path, mmap_mode="r")
        except (OSError, EOFError, ValueError):
            counts = _count(store, count_tokens, num_workers)
            _write(path, counts)
        return cls(counts[0], counts[1])

    def summary(self) -> str:
        """Return one line: mean, median and 95th percentile of the tokens, and the share that is supervised.

        >>> EncodedLengths(np.array([4, 6], np.int32), np.array([1, 2], np.int32)).summary()
        '2 records, 10 tokens: mean 5.0, p50 5, p95 6, supervised 30.0 %'
        """
        if not len(self.num_tokens):
            return "0 records, 0 tokens"
        total, supervised = (int(counts.sum(dtype=np.int64)) for counts in (self.num_tokens, self.num_supervised))
        median, high = np.percentile(self.num_tokens, [50, 95])
        return (
            f"{len(self.num_tokens)} records, {total} tokens: mean {total / len(self.num_tokens):.1f}, "
            f"p50 {median:.0f}, p95 {high:.0f}, supervised {supervised / max(total, 1):.1%}".replace("%", " %")
        )


def _count(store: RecordStore, count_tokens: CountTokens, num_workers: int) -> NDArray[np.int32]:
    """Return int32 ``(2, num_records)``."""
    count = partial(_count_range, store, count_tokens)
    starts = range(0, len(store), _RECORDS_AT_ONCE)
    if num_workers == 0:
        pairs = list(chain.from_iterable(map(count, starts)))
    else:
        with ProcessPoolExecutor(num_workers) as pool:
            pairs = list(chain.from_iterable(pool.map(count, starts)))
    return np.array(pairs, dtype=np.int32).reshape(-1, 2).T.copy()


def _count_range(store: RecordStore, count_tokens: CountTokens, start: int) -> list[tuple[int, int]]:
    return [count_tokens(store[index]) for index in range(start, min(start + _RECORDS_AT_ONCE, len(store)))]


def _write(path: Path, counts: NDArray[np.int32]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.save(file, counts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path.parent}: cannot store the token counts ({error.strerror}); make room for about "
            f"{counts.nbytes / 1e6:.0f} MB, or set LLAVA_PL_CACHE to another folder"
        ) from error
