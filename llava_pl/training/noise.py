"""What Lightning says of every run of this project and what means nothing here: kept from the user.

Beside a run: its settings are checked here, in words of this project; a warning that is left means something.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOISE = (
    ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning on torch 2.13
    ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts are meant to be
    "Total length of `list` across ranks is zero.*",  # a run without validation data
    ".*does not have many workers.*",
    "Be aware that when using `ckpt_path`.*",  # an evaluation saves no checkpoints
    "You have overridden `transfer_batch_to_device` in `LightningModule`.*",
)
"""Beginnings of warnings, as regular expressions."""

PACKAGE = Path(__file__).parents[1]


def silence_noise() -> None:
    """Leave these warnings out from now on, and the advertisement of a logger."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


@contextmanager
def quiet() -> Iterator[None]:
    """Let Lightning print its warnings alone, without these: for a run within something that is to be looked at."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            silence_noise()
            yield
    finally:
        log.setLevel(level)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print the warnings of this package as lines of the command: the user has not written what raised them."""
    usual = warnings.formatwarning

    def say(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        # Of another kind it is a library's, and the place in our code tells where to look.
        if filename == "llava-pl" or (category is UserWarning and Path(filename).is_relative_to(PACKAGE)):
            return f"llava-pl: warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = say
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()
