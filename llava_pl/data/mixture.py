"""Several sources of records as one: which of them an epoch holds, and how often.

In: the records of each source. Out: one sequence of records for ``data/dataset.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_pl.types import InputError, Record


@dataclass(frozen=True)
class SourceConfig:
    """A file of records and its weight in a mixture.

    Args:
        path: The file.
        name: What it is called in logs; by default the file's name without its ending.
        repeats: How often an epoch holds each of its records. With a fraction, such as 0.5 or 2.5, that share of the
            records, drawn once from the seed, is held once more.
    """

    path: str
    name: str | None = None
    repeats: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a weight that leaves nothing."""
        if not 0 < self.repeats < 1_000_000:
            raise InputError(f"data.records: {self.path}: repeats: expected a number above 0, found {self.repeats}")

    @property
    def label(self) -> str:
        """What it is called in logs."""
        return self.name or Path(self.path).stem


class Mixture(Sequence[Record]):
    """The records of several sources in one sequence: the first source's, then the second's, and so on.

    Args:
        sources: Label, records and repeats of each; no label twice.
        seed: Of the draw of a fraction.

    Raises:
        InputError: Two sources have the same label.
    """

    def __init__(self, sources: Sequence[tuple[str, Sequence[Record], float]], *, seed: int = 0) -> None:
        self.labels = tuple(label for label, _, _ in sources)
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"data.records: expected names that differ, found {', '.join(self.labels)}; give a name")
        self._records = [records for _, records, _ in sources]
        self._picks = [
            _pick(len(records), repeats, np.random.default_rng([seed, number]))
            for number, (_, records, repeats) in enumerate(sources)
        ]
        self._ends = np.cumsum([len(pick) for pick in self._picks])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices: nobody asks for them
        source, place = self.locate(index)
        return self._records[source][place]

    def locate(self, index: int) -> tuple[int, int]:
        """Return the number of the source that an entry is from, and the index of its record there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        source = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[source - 1]) if source else 0
        return source, int(self._picks[source][index - start])

    @property
    def counts(self) -> dict[str, int]:
        """How many entries each source has."""
        return {label: len(pick) for label, pick in zip(self.labels, self._picks, strict=True)}


def _pick(num_records: int, repeats: float, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the records that an epoch holds, as indices in rising order within each repeat."""
    whole = int(repeats)
    rest = np.sort(rng.permutation(num_records)[: round(num_records * (repeats - whole))])
    return np.concatenate([*[np.arange(num_records)] * whole, rest]).astype(np.int64)
