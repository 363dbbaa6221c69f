"""Guards: minutes without a word in a terminal, or bars in a log file."""

import sys

import pytest

from llava_pl.progress import progress_bar, show_progress


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_with_the_time_that_is_left_in_a_terminal_alone(capsys, monkeypatch, is_terminal):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert list(show_progress(range(3), "reading files")) == [0, 1, 2]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("reading files" in shown.err and "0:00:00" in shown.err) if is_terminal else shown.err == ""


@pytest.mark.parametrize("is_shown", [True, False])
def test_parts_that_do_not_know_how_many_they_are(capsys, monkeypatch, is_shown):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(show_progress(iter("abc"), "reading files", total=3, is_shown=is_shown)) == ["a", "b", "c"]
    shown = capsys.readouterr().err
    assert ("100%" in shown) if is_shown else shown == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_that_is_moved_on(capsys, monkeypatch, is_terminal):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    with progress_bar(3, "asking") as advance:
        advance(2)
        advance(1)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(text in shown.err for text in ("asking", "3/3", "0:00:00")) if is_terminal else shown.err == ""
