"""Keys and values in a place with room for those to come.

transformers' own layer of a cache copies all that it holds for every new word. `RoomyLayer` writes new positions behind
the held ones, in place, and copies all only where the room has run out or rows leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Positions that are set aside, beyond those that are known to come, whenever all has to be copied."""


class RoomyLayer(DynamicLayer):
    """A layer of a cache as transformers takes them, with the same `keys` and `values` ``(B, heads, T, D / heads)``."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rooms: tuple[Tensor, Tensor] | None = None  # what keys and values are the first T positions of

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Add positions ``(B, heads, Q, D / heads)``, and return all keys and values."""
        if not self.is_initialized:
            self.take_rows(key_states.unbind(), value_states.unbind(), key_states.shape[2])
        else:
            end = self.keys.shape[2] + key_states.shape[2]
            keys, values = self._find_rooms()
            self._use(_append(keys, self.keys, key_states), _append(values, self.values, value_states), end)
        return self.keys, self.values

    def take_rows(
        self, keys: Sequence[Tensor], values: Sequence[Tensor], num_columns: int, *, num_more: int = 0
    ) -> None:
        """Hold rows ``(heads, T_row, D / heads)`` of different lengths, which all end in the last column.

        Args:
            keys: Of each row.
            values: Of each row.
            num_columns: T.
            num_more: Positions that are known to come.
        """
        self.lazy_initialization(keys[0], values[0])
        num_all = num_columns + num_more + ROOM
        self._use(_align_right(keys, num_columns, num_all), _align_right(values, num_columns, num_all), num_columns)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, and the room."""
        keys, values = self._find_rooms()
        self._use(keys[indices], values[indices], self.keys.shape[2])

    def _find_rooms(self) -> tuple[Tensor, Tensor]:
        """Return what keys and values lie in: themselves where transformers' layer has put others in their place."""
        assert self._rooms is not None
        is_within = self.keys.data_ptr() == self._rooms[0].data_ptr()
        return self._rooms if is_within else (self.keys, self.values)

    def _use(self, keys: Tensor, values: Tensor, end: int) -> None:
        self._rooms = keys, values
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]


def make_cache(config: PreTrainedConfig, *, keeps_all: bool) -> Cache:
    """Return an empty cache.

    Args:
        config: The decoder's.
        keeps_all: Keep positions behind a window too.
    """
    usual = DynamicCache(config=config).layers
    return Cache([RoomyLayer() if keeps_all or type(layer) is DynamicLayer else layer for layer in usual])


def roomy_layers(cache: Cache) -> list[RoomyLayer]:
    """Return the layers of a cache that has no others; what is taken from the list is taken from the cache."""
    assert all(isinstance(layer, RoomyLayer) for layer in cache.layers)
    return cast("list[RoomyLayer]", cache.layers)


def _append(room: Tensor, held: Tensor, new: Tensor) -> Tensor:
    """Return the room, or a larger one, in which new positions follow the held ones."""
    start, end = held.shape[2], held.shape[2] + new.shape[2]
    if end > room.shape[2]:
        room = held.new_empty(*held.shape[:2], end + ROOM, held.shape[3])
        room[:, :, :start] = held
    room[:, :, start:end] = new
    return room


def _align_right(rows: Sequence[Tensor], num_columns: int, num_all: int) -> Tensor:
    """Return rows ``(heads, T_row, D / heads)`` that end in one column, zero before them, with room behind it."""
    num_heads, _, width = rows[0].shape
    room = rows[0].new_empty(len(rows), num_heads, num_all, width)
    for place, row in zip(room, rows, strict=True):
        start = num_columns - row.shape[1]
        place[:, :start] = 0  # attention multiplies what it does not see by zero, which must not be a NaN
        place[:, start:num_columns] = row
    return room
