"""What Lightning says of every run of this project and what means nothing here: kept from the user.

Beside a run: its settings are checked here, in words of this project; a warning that is left means something.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = (
    ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning on torch 2.13
    ".*module\\(s\\) in eval mode at the start of training.*",  # frozen parts are meant to be
    "Total length of `list` across ranks is zero.*",  # a run without validation data
    ".*does not have many workers.*",
    "Be aware that when using `ckpt_path`.*",  # an evaluation saves no checkpoints
    "You have overridden `transfer_batch_to_device` in `LightningModule`.*",
)
"""Beginnings of warnings, as regular expressions."""


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


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()
