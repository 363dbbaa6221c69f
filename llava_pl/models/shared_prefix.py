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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from llava_pl.models.roomy_cache import roomy_layers

if TYPE_CHECKING:
    from transformers import Cache


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """What is read once.

    Args:
        num_columns: Columns of the padded batch, from the left, that only the sources read.
        sources: Rows that read them: one for each picture that is shared, and every row that shares nothing; none that
            has only padding there.
        source_of_row: For each row, the place of its source in `sources`.
        shifts: For each row, by how many columns its source is longer.
    """

    num_columns: int
    sources: tuple[int, ...]
    source_of_row: tuple[int, ...]
    shifts: tuple[int, ...]


def find_shared_prefix(rows: Sequence[Sequence[int]], pictures: Sequence[int]) -> SharedPrefix | None:
    """Return what rows have in common, None if no two show the same picture or they differ from the start.

    Args:
        rows: The ids of each row, without padding.
        pictures: For each row, the place of its picture; -1 for a row without one.

    >>> find_shared_prefix([[1, 7, 7, 3], [1, 7, 7, 4, 5, 6], [1, 2, 3]], [0, 0, -1])
    SharedPrefix(num_columns=3, sources=(1,), source_of_row=(0, 0, 0), shifts=(2, 0, 0))
    """
    width = max(map(len, rows))
    groups: dict[object, list[int]] = {}
    for row, picture in enumerate(pictures):
        groups.setdefault(picture if picture >= 0 else ("alone", row), []).append(row)
    longest = {key: max(group, key=lambda row: len(rows[row])) for key, group in groups.items()}
    ends: list[int] = []  # the column in which what a group shares ends
    for key, group in groups.items():
        if len(group) > 1:
            columns = zip(*(rows[row] for row in group), strict=False)
            num_common = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, columns))
            # The last column is left to each row: it says what comes next.
            num_shared = min(num_common, len(rows[longest[key]]) - 1)
            ends.append(width - len(rows[longest[key]]) + num_shared if num_shared else 0)
    if not ends or min(ends) == 0:
        return None
    # Rows that have nothing but padding there take it from whatever source.
    source_of_row, shifts = [0] * len(rows), [0] * len(rows)
    sources: list[int] = []
    for key, group in groups.items():
        if width - len(rows[longest[key]]) < min(ends):
            for row in group:
                source_of_row[row], shifts[row] = len(sources), len(rows[longest[key]]) - len(rows[row])
            sources.append(longest[key])
    return SharedPrefix(min(ends), tuple(sources), tuple(source_of_row), tuple(shifts))


def spread(cache: Cache, shared: SharedPrefix, into: Cache, *, num_more: int = 0) -> None:
    """Move the keys and values of the sources to all rows.

    Args:
        cache: Of the sources, `num_columns` positions; it is used up, so that no more than a layer is held twice.
        shared: Which row takes which.
        into: An empty cache for all rows.
        num_more: Positions that every row will have beyond them.
    """
    # A row that is shorter than what its source was read for takes nothing: it is padding there.
    ends = [max(0, shared.num_columns - shift) for shift in shared.shifts]
    places = list(zip(shared.source_of_row, ends, strict=True))
    layers = roomy_layers(cache)
    for own in roomy_layers(into):
        layer = layers.pop(0)
        keys, values = ([held[row, :, :end] for row, end in places] for held in (layer.keys, layer.values))
        own.take_rows(keys, values, shared.num_columns, num_more=num_more)
