"""Standard output that does not end a command: who reads it may be gone, or nobody ever did."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any


class _LastingFile(io.FileIO):
    """A file whose reader may go, as with `| head`: what is written then is dropped, and the work goes on."""

    def write(self, content: Any) -> int:  # noqa: ANN401  whatever has bytes
        try:
            return super().write(content)
        except OSError as error:
            # What is left in buffers would fail once more when the program ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                return len(content)
            raise OSError(error.errno, error.strerror, "standard output") from error


@contextmanager
def lasting_stdout() -> Iterator[None]:
    """Within the block, let standard output take every letter and outlast its reader; all is written out at the end.

    Raises:
        OSError: It cannot be written for another reason, such as a full disk.
    """
    usual = sys.stdout
    if usual is None:  # who started this has closed it
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
        return
    try:
        number = usual.fileno()
    except (AttributeError, OSError, ValueError):  # a notebook's, or a test's
        yield
        return
    usual.flush()
    file = _LastingFile(number, "w", closefd=False)
    is_unbuffered = getattr(usual, "write_through", False)  # python -u
    lasting = io.TextIOWrapper(
        file if is_unbuffered else io.BufferedWriter(file),  # as Python makes its own
        usual.encoding,
        "backslashreplace",  # a terminal may not have the letters of an answer
        line_buffering=usual.isatty(),
        write_through=is_unbuffered,
    )
    with redirect_stdout(lasting):
        try:
            yield
        finally:
            lasting.flush()
