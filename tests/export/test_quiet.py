"""Guards: an export that leaves transformers silent for the rest of the process."""

import pytest
from transformers.utils import logging

from llava_pl.export.quiet import silenced


def test_verbosity_comes_back_even_after_an_error():
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    seen = []

    def fail():
        seen.extend((logging.get_verbosity(), logging.is_progress_bar_enabled()))
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), silenced():
        fail()
    assert seen == [logging.ERROR, False]
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
