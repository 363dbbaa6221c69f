"""Packages that not everybody has: whether one is there, without the seconds of importing it."""

from __future__ import annotations

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; a folder of its name without Python in it is none.

    Where a run writes to ``wandb/`` or somebody has a folder ``deepspeed/``, Python itself would take that for one.

    >>> is_installed("json"), is_installed("no_such_package")
    (True, False)
    """
    found = find_spec(package)
    return found is not None and found.origin is not None
