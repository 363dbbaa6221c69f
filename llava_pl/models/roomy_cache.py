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
"""Positions that are set aside whenever all has to be copied."""


class RoomyLayer(DynamicLayer):
    """A layer of a cache as transformers takes them, with the same `keys` and `values` ``(B, heads, T, D / heads)``."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rooms: tuple[Tensor, Tensor] | None = None  # what keys and values are the first T positions of

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Add positions ``(B, heads, Q, D / heads)``, and return all keys and values."""
        if self._rooms is None or not self.is_initialized:
            self.take_rows(key_states.unbind(), value_states.unbind(), key_states.shape[2])
        else:
            end = self.keys.shape[2] + key_states.shape[2]
            keys, values = self._rooms
            self._use(_append(keys, self.keys, key_states), _append(values, self.values, value_states), end)
        return self.keys, self.values

    def take_rows(self, keys: Sequence[Tensor], values: Sequence[Tensor], num_columns: int) -> None:
        """Hold rows ``(heads, T_row, D / heads)`` of different lengths, which all end in the last column."""
        self.lazy_initialization(keys[0], values[0])
        self._use(_align_right(keys, num_columns), _align_right(values, num_columns), num_columns)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, and the room."""
        assert self._rooms is not None
        keys, values = self._rooms
        self._use(keys[indices], values[indices], self.keys.shape[2])

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
    """Return the layers of a cache that has no others."""
    assert all(isinstance(layer, RoomyLayer) for layer in cache.layers)
    return cast("list[RoomyLayer]", cache.layers)


def _append(room: Tensor, held: Tensor, new: Tensor) -> Tensor:
    """Return the room, or another one, in which new positions follow the held ones."""
    start, end = held.shape[2], held.shape[2] + new.shape[2]
    is_elsewhere = held.data_ptr() != room.data_ptr()  # transformers' layer has put others in their place
    if is_elsewhere or end > room.shape[2]:
        room = held.new_empty(*held.shape[:2], end + ROOM, held.shape[3])
        room[:, :, :start] = held
    room[:, :, start:end] = new
    return room


def _align_right(rows: Sequence[Tensor], num_columns: int) -> Tensor:
    """Return rows ``(heads, T_row, D / heads)`` that end in one column, zero before them, with room behind it."""
    num_heads, _, width = rows[0].shape
    room = rows[0].new_empty(len(rows), num_heads, num_columns + ROOM, width)
    for place, row in zip(room, rows, strict=True):
        start = num_columns - row.shape[1]
        place[:, :start] = 0  # attention multiplies what it does not see by zero, which must not be a NaN
        place[:, start:num_columns] = row
    return room
