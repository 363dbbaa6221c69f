"""Files that have their name only when they are whole: a kill leaves no half one to be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where to write; that file gets its name at the end of the block, and is gone if the block fails.

    Args:
        path: The name, in a folder that exists; several processes may write to it, of which one wins.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
