"""NumPy's arrays and scalars out of a torch file, without the parts of NumPy that believe what a file says.

In: a torch file that is read with ``weights_only=True``, which by itself takes no NumPy at all. Out: its arrays and
scalars of numbers, truth values and text; anything else stays refused.

NumPy's own reconstruction functions run no code, but they take the layout of a dtype from the file: one that calls
bytes of the file a pointer to an object reads anywhere in memory. So a file only gets to call the small classes below,
which keep what it says until `settle` makes arrays of it, with dtypes of NumPy's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch

KINDS = "biufcSU"
"""Kinds of dtypes that are taken: bool, integers, floats, complex numbers, bytes, text."""


class _Dtype:
    """What a file says of a dtype; of its state the byte order alone is believed."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401  whatever a file holds
        self.order = state[1]

    def build(self) -> np.dtype[Any]:
        dtype = np.dtype(self.code) if isinstance(self.code, str) else np.dtype(object)
        if dtype.kind not in KINDS:
            raise ValueError(f"an array of {self.code!r}")
        return dtype.newbyteorder(cast("Any", self.order))


class _Array:
    """What a file says of an array."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401  whatever a file holds
        self.state = state

    def build(self) -> np.ndarray[Any, Any]:
        _, shape, dtype, is_fortran, data = self.state
        flat = np.frombuffer(data, dtype.build()) if data else np.empty(0, dtype.build())
        return flat.reshape(shape, order="F" if is_fortran else "C").copy(order="K")


class _Scalar:
    """What a file says of a scalar."""

    def __init__(self, dtype: _Dtype, data: bytes) -> None:
        self.dtype, self.data = dtype, data

    def build(self) -> Any:  # noqa: ANN401  a scalar of any of NumPy's types
        return np.frombuffer(self.data, self.dtype.build())[0]


def _empty() -> bytes:
    return b""


_NAMES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    (_empty, "builtins.bytes"),  # the data of an array without entries
    *((_Array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),  # NumPy 1, NumPy 2
    *((_Scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@contextmanager
def numpy_is_taken() -> Iterator[None]:
    """Have ``torch.load(..., weights_only=True)`` read NumPy's values; give what it returns to `settle`."""
    with torch.serialization.safe_globals(_NAMES):
        yield


def settle(content: Any) -> Any:  # noqa: ANN401  nested containers of plain values
    """Return what was read with NumPy's values in place of what the file says of them; containers are changed in place.

    Raises:
        UnpicklingError: The file says something that no such value is.
    """
    try:
        return _settle(content, {})
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise UnpicklingError(f"a value of NumPy that is damaged or of another kind: {error}") from error


def _settle(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:  # noqa: ANN401
    if not isinstance(value, _Dtype | _Array | _Scalar | dict | list | tuple | set):
        return value
    if id(value) in done:
        return done[id(value)][1]
    settled: Any = value
    done[id(value)] = value, settled  # with the value, whose id is else given to another; a list may hold itself
    if isinstance(value, _Dtype | _Array | _Scalar):
        settled = value.build()
    elif isinstance(value, dict):
        entries = [(_settle(key, done), _settle(item, done)) for key, item in value.items()]
        value.clear()
        for key, entry in entries:
            value[key] = entry
    else:
        items = [_settle(item, done) for item in value]
        if isinstance(value, list):
            value[:] = items
        elif any(new is not old for new, old in zip(items, value, strict=True)):
            settled = type(value)(items)
    done[id(value)] = value, settled
    return settled
