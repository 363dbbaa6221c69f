"""Guards: a run that is said to go on while its process is gone, or to be gone; a wrong way to go on."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pl.run_state import (
    MOST_REASON,
    describe_end,
    find_state,
    new_state,
    read_state,
    resume_command,
    write_state,
)
from llava_pl.types import InputError

HERE = Path("runs/a/b")


@pytest.fixture
def state(_folder):
    return new_state("fit", ["fit", "--config", "a.yaml"], HERE, "align")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Lies where the state says."""
    monkeypatch.chdir(tmp_path)
    HERE.mkdir(parents=True)


def test_a_run_of_this_process(state, tmp_path):
    assert (state.command, state.status, state.stage, state.run_dir) == ("fit", "running", "align", "runs/a/b")
    assert (state.pid, state.host, state.cwd) == (os.getpid(), socket.gethostname(), str(Path.cwd()))
    assert find_state(state, HERE) == "running"
    write_state(tmp_path / "new", state)
    assert read_state(tmp_path / "new") == state
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state.json"]


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed"])
def test_what_a_run_says_of_its_end_holds(state, status):
    assert find_state(replace(state, status=status, pid=2**22 + 1), HERE) == status


def test_a_process_that_is_gone_was_killed(state):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    import psutil

    of_it = replace(state, pid=process.pid, process_started=psutil.Process(process.pid).create_time())
    assert find_state(of_it, HERE) == "running"
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has asked yet how it ended
    assert find_state(of_it, HERE) == "killed"
    process.wait()
    assert find_state(of_it, HERE) == "killed"


def test_another_process_with_the_number_of_the_run_is_not_the_run(state):
    assert find_state(replace(state, process_started=state.process_started - 3600), HERE) == "killed"


def test_of_another_machine_nobody_knows(state):
    assert find_state(replace(state, host="elsewhere"), HERE) == "unknown"


def test_a_copy_of_the_folder_of_a_run_at_work_is_none(state, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "link").symlink_to(HERE)
    assert [find_state(state, tmp_path / name) for name in ("copy", "link")] == ["unknown", "running"]
    moved = replace(state, run_dir="where it was")
    assert find_state(moved, tmp_path / "copy") == "running"
    killed = replace(state, process_started=0.0)
    assert [find_state(killed, tmp_path / name) for name in ("copy", "link")] == ["killed", "killed"]


def test_without_a_state(tmp_path):
    assert read_state(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        "{", "[]", '{"command": "fit"}', b"\xff", "[" * 100_000, {"status": "?"}, {"status": []}, {"started": "x"},
        {"started": float("nan")}, {"started": 10**400}, {"ended": float("inf")}, {"pid": 1.5}, {"pid": None},
        {"words": "fit"}, {"words": [1]}, {"step": "many"}, {"total_steps": True}, {"num_starts": None}, {"cwd": 7},
        {"launcher": None},
        {"run_dir": "a\0b"}, {"cwd": "\ud800"}, {"stage": ["align"]}, {"reason": {}}, {"host": None},
    ],
)  # fmt: skip
def test_a_damaged_state_is_one_line(tmp_path, state, change):
    write_state(tmp_path, state)
    path = tmp_path / "state.json"
    if isinstance(change, dict):
        change = json.dumps({**json.loads(path.read_text()), **change})
    path.write_bytes(change if isinstance(change, bytes) else change.encode())
    with pytest.raises(InputError, match=r"state.json: damaged, expected what a run wrote there; move it away"):
        read_state(tmp_path)


def test_a_newer_version_may_say_more(tmp_path, state):
    write_state(tmp_path, state)
    path = tmp_path / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mood": "good"}))
    assert read_state(tmp_path) == state


def chained(error, context):
    error.__context__ = context
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("finished", None)),
        (KeyboardInterrupt(), ("interrupted", "Ctrl-C")),
        (chained(SystemExit(1), KeyboardInterrupt()), ("interrupted", "Ctrl-C")),
        (SystemExit(138), ("interrupted", "SIGUSR1")),
        (SystemExit(255), ("failed", "SystemExit: 255")),
        (InputError("no\n such file"), ("failed", "InputError: no such file")),
        (ValueError("x" * 1000), ("failed", "ValueError: " + "x" * (MOST_REASON - 12) + "...")),
    ],
)
def test_ends(error, expected):
    assert describe_end(error) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", "a b.yaml"],
        ["fit", "--run_dir", "old", "--config", "a b.yaml", "--ckpt_path", "last"],
        ["fit", "--run_dir=old", "--ckpt_path=x", "--config", "a b.yaml"],
    ],
)
def test_command_that_resumes(words, tmp_path):
    command = resume_command(words, tmp_path / "run")
    assert command == f"llava-pl fit --config 'a b.yaml' --run_dir {tmp_path}/run --ckpt_path last"


def test_a_launcher_comes_first(tmp_path):
    state = new_state("fit", ["fit", "--config", "a.yaml"], tmp_path, None, ["torchrun", "--nproc-per-node", "8"])
    write_state(tmp_path, state)
    assert read_state(tmp_path).launcher == ["torchrun", "--nproc-per-node", "8"]
    command = resume_command(state.words, tmp_path, state.launcher)
    assert command == f"torchrun --nproc-per-node 8 llava-pl fit --config a.yaml --run_dir {tmp_path} --ckpt_path last"
