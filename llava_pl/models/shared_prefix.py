"""What several questions about one picture have in common is read once: the start of the prompt, picture included.

In: the ids of the rows of a batch, and which of them show the same picture. Out: which rows are read up to which
column, and for all rows the keys and values that the decoder would have made of these columns.

The rows of a batch end in the same column, because they are padded on the left. A row of 7 positions and one of 9 that
begin with the same 5 look like this, `.` being padding:

    column     0 1 2 3 4 5 6 7 8
    longer     a b c d e u v w x      read up to column 5, by itself
    shorter    . . a b c d e y z      takes over a b c, shifted by two; reads d e y z

So every row keeps the padding, the positions and the distances that it has when nothing is shared: attention that
counts in columns (a window, MPT's biases) sees no difference.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """What is read once.

    Args:
        num_columns: Columns of the padded batch, from the left, that only the sources read.
        sources: Rows that read them: one for each picture that is shared, and every row that shares nothing.
        source_of_row: For each row, the place of its source in `sources`.
        shifts: For each row, by how many columns its source is longer.
    """

    num_columns: int
    sources: tuple[int, ...]
    source_of_row: tuple[int, ...]
    shifts: tuple[int, ...]

    @property
    def num_saved(self) -> int:
        """Columns of rows that are not read."""
        return self.num_columns * (len(self.source_of_row) - len(self.sources))


def find_shared_prefix(rows: Sequence[Sequence[int]], pictures: Sequence[int]) -> SharedPrefix | None:
    """Return what rows have in common, None if no two show the same picture or they differ from the start.

    Args:
        rows: The ids of each row, without padding.
        pictures: For each row, the place of its picture; -1 for a row without one.

    >>> find_shared_prefix([[1, 7, 7, 3], [1, 7, 7, 4, 5, 6], [1, 2, 3]], [0, 0, -1])
    SharedPrefix(num_columns=3, sources=(1, 2), source_of_row=(0, 0, 1), shifts=(2, 2, 0))
    """
    longest = max(map(len, rows))
    groups: dict[object, list[int]] = {}
    for row, picture in enumerate(pictures):
        groups.setdefault(picture if picture >= 0 else ("alone", row), []).append(row)
    sources = {key: max(group, key=lambda row: len(rows[row])) for key, group in groups.items()}
    ends = []  # for each group that shares something, the column where that ends
    for key, group in groups.items():
        if len(group) > 1:
            own = rows[sources[key]]
            common: Sequence[int] = os.path.commonprefix([rows[row] for row in group])
            ends.append(longest - len(own) + min(len(common), len(own) - 1))
    if not ends or min(ends) == 0:
        return None
    places = {key: place for place, key in enumerate(groups)}
    key_of_row = {row: key for key, group in groups.items() for row in group}
    keys = [key_of_row[row] for row in range(len(rows))]
    shared = SharedPrefix(
        num_columns=min(ends),
        sources=tuple(sources.values()),
        source_of_row=tuple(places[key] for key in keys),
        shifts=tuple(len(rows[sources[key]]) - len(rows[row]) for row, key in enumerate(keys)),
    )
    return shared


def spread(cache: Cache, shared: SharedPrefix) -> DynamicCache:
    """Return the cache of all rows, made from that of the sources.

    Args:
        cache: Keys and values ``(sources, heads, num_columns, D / heads)`` of each layer.
        shared: Which row takes which.
    """
    spread_cache = DynamicCache()
    for number, layer in enumerate(cache.layers):
        assert layer.keys is not None
        columns = torch.arange(shared.num_columns, device=layer.keys.device)
        shifts, sources = (torch.tensor(values, device=columns.device) for values in (shared.shifts, shared.source_of_row))
        taken = (columns - shifts[:, None]).clamp(min=0)  # (rows, columns); what is clamped is padding

        def take(tensor: Tensor, rows: Tensor = sources[:, None], columns: Tensor = taken) -> Tensor:
            return tensor.transpose(1, 2)[rows, columns].transpose(1, 2)

        spread_cache.update(take(layer.keys), take(layer.values), number)
    return spread_cache
