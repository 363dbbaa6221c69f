"""Guards: a rank that outlives the run which started it, and keeps its memory; one that ends though nobody asked."""

import os
import signal
import subprocess
import sys

import pytest

from llava_pl import lifeline
from llava_pl.lifeline import PARENT_VARIABLE, end_with_launcher

# A first rank that starts a second one; both wait until they are ended.
RANKS = """
import ctypes, os, subprocess, sys, time
from llava_pl.lifeline import end_with_launcher
end_with_launcher()
if "LOCAL_RANK" in os.environ:
    print("watching", flush=True)
    if sys.argv[2] == "busy":
        ctypes.PyDLL(None).sleep(120)  # no other thread of Python runs meanwhile
else:
    subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[1:]], env={**os.environ, "LOCAL_RANK": "1"})
time.sleep(120)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "state", ["idle", pytest.param("busy", marks=pytest.mark.skipif(sys.platform != "linux", reason="needs prctl"))]
)
def test_another_rank_ends_with_the_first(number, state):
    command = [sys.executable, "-c", RANKS, RANKS, state]
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", PARENT_VARIABLE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout.readline() == "watching\n"
        first.send_signal(number)
        # The second holds the same pipe, which ends when both have ended.
        assert first.communicate(timeout=30)[0] == ""
    assert first.returncode == -number


@pytest.mark.parametrize("parent", [None, "1"])
def test_a_rank_that_something_else_started_watches_nobody(monkeypatch, parent):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    if parent:
        monkeypatch.setenv(PARENT_VARIABLE, parent)
    monkeypatch.setattr(lifeline, "end_with", lambda pid: pytest.fail(f"watches {pid}"))
    end_with_launcher()


def test_a_rank_whose_first_one_is_gone_ends_at_once(monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(PARENT_VARIABLE, str(gone.pid))
    with pytest.raises(SystemExit):
        end_with_launcher()


def test_the_first_rank_says_who_it_is(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    end_with_launcher()
    assert os.environ.pop(PARENT_VARIABLE) == str(os.getpid())
