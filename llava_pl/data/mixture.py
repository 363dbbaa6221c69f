"""Several sources as one: which of their records an epoch holds, and how often.

In: how many records each source has, or which of them are left. Out: a `Mixture`, by which anything that the sources
hold for each record (the records themselves, their tokens, their lengths) is put together in one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import isnan
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from llava_pl.types import InputError

T = TypeVar("T")

MOST_REPEATS = 1000


class SourceConfig(TypedDict):
    """A file of records and its weight in a mixture, as a configuration writes it.

    Args:
        path: The file.
        name: What it is called in logs; by default the file's name without its ending.
        repeats: How often an epoch holds each of its records, by default once. With a fraction, such as 0.5 or 2.5,
            that share of the records, drawn once from the seed, is held once more.
    """

    path: str
    name: NotRequired[str]
    repeats: NotRequired[float]


def check_repeats(labels: Sequence[str], repeats: Sequence[float]) -> None:
    """Check what can be known of a mixture before its sources are read.

    Args:
        labels: Name of each source.
        repeats: How often each is held.

    Raises:
        InputError: A source is held too rarely or too often.
    """
    for label, times in zip(labels, repeats, strict=True):
        if isnan(times):
            raise InputError(
                f"data.records: {label}: repeats: expected a number, found nan; write how often an epoch holds each "
                "record, such as 2.5"
            )
        if not 0 < times <= MOST_REPEATS:
            raise InputError(
                f"data.records: {label}: repeats: expected more than 0 and at most {MOST_REPEATS}, found {times}"
            )


class Mixture:
    """Which records an epoch holds: the first source's, then the second's, and so on.

    Args:
        labels: Name of each source, no name twice.
        places: For each source, the records that are left, as places in it in rising order.
        repeats: How often each source is held; see `SourceConfig`.
        seed: Of the draw of a fraction.

    Raises:
        InputError: As `check_repeats`, or nothing of a source is held.
    """

    def __init__(
        self, labels: Sequence[str], places: Sequence[NDArray[np.int64]], repeats: Sequence[float], *, seed: int = 0
    ) -> None:
        check_repeats(labels, repeats)
        self.labels = tuple(labels)
        self._places = [
            _draw(left, times, np.random.default_rng([seed, number]))
            for number, (left, times) in enumerate(zip(places, repeats, strict=True))
        ]
        for label, drawn in zip(labels, self._places, strict=True):
            if not len(drawn) and len(labels) > 1:
                raise InputError(f"data.records: {label}: an epoch holds none of its records; leave the source out")
        self._ends = np.cumsum([len(drawn) for drawn in self._places])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Return the number of the source that an entry is from, and the place of its record there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        source = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[source - 1]) if source else 0
        return source, int(self._places[source][index - start])

    def find(self, source: int, place: int) -> int | None:
        """Return the first entry with a record of a source, None where an epoch does not hold it."""
        found = np.flatnonzero(self._places[source] == place)
        return int(found[0]) + int(self._ends[source - 1] if source else 0) if len(found) else None

    def count_sources(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Return how many of some entries are from each source."""
        numbers = np.searchsorted(self._ends, np.asarray(indices, dtype=np.int64), side="right")
        return np.bincount(numbers, minlength=len(self.labels))

    def gather(self, numbers: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return a number for each entry, from arrays with one for each record of each source."""
        parts = [values[drawn] for values, drawn in zip(numbers, self._places, strict=True)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def count_draws(self, source: int, num_records: int) -> NDArray[np.int64]:
        """Return how often an epoch holds each of the records of a source."""
        return np.bincount(self._places[source], minlength=num_records)

    @property
    def digest(self) -> bytes:
        """What tells the records of this epoch from those of another one."""
        return blake2b(b"".join(drawn.tobytes() + b"," for drawn in self._places), digest_size=16).digest()


class Mixed(Sequence[T], Generic[T]):
    """What several sources hold for each record, in the order of a mixture.

    Args:
        mixture: The order.
        sources: A sequence for each source.
    """

    def __init__(self, mixture: Mixture, sources: Sequence[Sequence[T]]) -> None:
        self.mixture = mixture
        self._sources = tuple(sources)

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> T:  # type: ignore[override]  # no slices: nobody asks for them
        source, place = self.mixture.locate(index)
        return self._sources[source][place]


def _draw(left: NDArray[np.int64], repeats: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the records that an epoch holds, in rising order within each repeat."""
    whole = int(repeats)
    more = np.sort(rng.permutation(len(left))[: round(len(left) * (repeats - whole))])
    return np.concatenate([*[left] * whole, left[more]]).astype(np.int64)
