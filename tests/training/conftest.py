"""What tests of saving share."""

import threading

import pytest

from llava_pl.training import checkpoint_io


@pytest.fixture
def gate(monkeypatch):
    """Writing begins when it is set; at the end it is set."""
    event = threading.Event()

    class Gated(checkpoint_io._HashingFile):
        def write(self, data):
            assert event.wait(timeout=60)
            return super().write(data)

    monkeypatch.setattr(checkpoint_io, "_HashingFile", Gated)
    yield event
    event.set()
