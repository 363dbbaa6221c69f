"""Guards: two runs in one folder, a checkpoint that is none found out after minutes of loading, a name that escapes."""

import errno
import fcntl
import os
import re
import subprocess
import sys

import pytest
import torch

from llava_pl.run_folder import (
    RUN_DIR_VARIABLE,
    check_checkpoint,
    choose_log,
    choose_run_dir,
    claim_folder,
    continued_run,
    find_checkpoint,
    find_or_begin,
    keep_old_logs,
)
from llava_pl.run_state import new_state, write_state
from llava_pl.training.processes import RANK_VARIABLES
from llava_pl.types import InputError


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    for variable in (*RANK_VARIABLES, "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(variable, raising=False)


def checkpoint(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}}, path)
    return path


def refused(function, *args, **options):
    with pytest.raises(InputError) as caught:
        function(*args, **options)
    return str(caught.value)


def test_each_run_gets_a_folder_of_its_own():
    first = choose_run_dir(None, "x")
    assert re.fullmatch(r"runs/x/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", str(first))
    first.mkdir(parents=True)
    assert choose_run_dir(None, "x") != first


def test_a_process_that_a_strategy_started_inherits_the_folder(monkeypatch):
    first = choose_run_dir(None, "x")
    monkeypatch.setenv("LOCAL_RANK", "1")
    first.mkdir(parents=True)
    assert choose_run_dir(None, "x") == first
    assert os.environ[RUN_DIR_VARIABLE] == str(first)


def test_processes_that_nothing_starts_together_are_given_one(monkeypatch):
    assert refused(choose_run_dir, None, "x", 2).startswith("run_dir: expected the folder of the run where torchrun,")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused(choose_run_dir, None, "x").endswith("the same to all of them, on a disk that they share")
    assert choose_run_dir("here", "x", 2).name == "here"


def test_a_given_folder(tmp_path):
    assert choose_run_dir("here", "x").name == "here"
    (tmp_path / "file").touch()
    assert refused(choose_run_dir, "file", "x").startswith("run_dir: file: expected a folder or a new name")


def test_a_name_that_file_systems_refuse():
    name = "\u00e9" * 128
    expected = f"name: '{name[:20]}...': expected at most 255 bytes, found 256; choose a shorter one"
    assert refused(choose_run_dir, None, name) == refused(find_checkpoint, "last", run_dir=None, name=name) == expected
    assert choose_run_dir(None, "x" * 255).parent.name == "x" * 255
    given = "a" * 256
    assert refused(choose_run_dir, given, "x") == f"run_dir: {given}: File name too long; choose another place"


@pytest.mark.parametrize("name", ["a/../../b", "/a", "", ".."])
def test_a_name_cannot_leave_the_folder_of_runs(name):
    assert refused(choose_run_dir, None, name).startswith(f"name: {name!r}: expected a plain folder name")
    assert refused(find_checkpoint, "last", run_dir=None, name=name).startswith(f"name: {name!r}")


def test_last_is_that_of_the_newest_run_which_has_one(tmp_path):
    checkpoint(tmp_path / "runs" / "x" / "2026-01-01_00-00-00" / "checkpoints" / "last.ckpt")
    newest = checkpoint(tmp_path / "runs" / "x" / "2026-01-02_00-00-00" / "checkpoints" / "last.ckpt")
    (tmp_path / "runs" / "x" / "2026-01-03_00-00-00").mkdir()  # of an evaluation
    checkpoint(tmp_path / "runs" / "y" / "2026-01-04_00-00-00" / "checkpoints" / "last.ckpt")
    assert find_checkpoint("last", run_dir=None, name="x") == str(newest.relative_to(tmp_path))
    here = checkpoint(tmp_path / "here" / "checkpoints" / "last.ckpt")
    assert find_checkpoint("last", run_dir="here", name="x") == str(here.relative_to(tmp_path))


def test_last_passes_over_no_run_that_trained(tmp_path):
    checkpoint(tmp_path / "runs" / "x" / "2026-01-01_00-00-00" / "checkpoints" / "last.ckpt")
    (tmp_path / "runs" / "x" / "2026-01-02_00-00-00" / "ledger").mkdir(parents=True)
    assert refused(find_checkpoint, "last", run_dir=None, name="x") == (
        "ckpt_path: last: the newest run, runs/x/2026-01-02_00-00-00, was stopped before its first checkpoint; start "
        "it again without --ckpt_path, or go on with an older one: --run_dir runs/x/2026-01-01_00-00-00"
    )


def test_last_of_nothing():
    found = refused(find_checkpoint, "last", run_dir=None, name="x")
    assert (
        found
        == "ckpt_path: last: no checkpoints/last.ckpt in runs/x; start without --ckpt_path, or give the path of one"
    )


@pytest.mark.parametrize("word", ["auto", "best", "hpc", "registry"])
def test_other_words_are_refused(word):
    assert refused(find_checkpoint, word, run_dir=None, name="x").startswith(f"ckpt_path: {word}: expected 'last',")


def test_a_checkpoint_is_complete(tmp_path):
    path = checkpoint(tmp_path / "a.ckpt")
    assert find_checkpoint("a.ckpt", run_dir=None, name="x") == "a.ckpt"
    path.write_bytes(path.read_bytes()[:-40])
    assert refused(check_checkpoint, path, "ckpt_path").endswith("found another or an incomplete file; use an older")
    assert "found a folder" in refused(check_checkpoint, tmp_path, "ckpt_path")
    assert refused(check_checkpoint, tmp_path / "b", "ckpt_path").endswith("b: no such file; check the path")


def test_last_passes_over_damaged_files(tmp_path):
    folder = tmp_path / "here" / "checkpoints"
    good, torn = checkpoint(folder / "step=1.ckpt"), checkpoint(folder / "step=2.ckpt")
    (folder / "last.ckpt").symlink_to("step=2.ckpt")
    torn.write_bytes(torn.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=r"step=2.ckpt is damaged .found another or an incomplete file.*step=1.ckpt"):
        assert find_checkpoint("last", run_dir="here", name="x") == str(good.relative_to(tmp_path))
    good.write_text("")
    assert refused(find_checkpoint, "last", run_dir="here", name="x").endswith(
        "there is no other good one; start anew in another --run_dir"
    )


def test_auto_does_not_begin_beside_damaged_files(tmp_path, capsys):
    folder = tmp_path / "here" / "checkpoints"
    assert find_or_begin("here", "x") is None
    good, torn = checkpoint(folder / "step=1.ckpt"), checkpoint(folder / "step=2.ckpt")
    (folder / "last.ckpt").symlink_to("step=2.ckpt")
    torn.write_text("")
    with pytest.warns(UserWarning, match="step=2.ckpt is damaged"):
        assert find_or_begin("here", "x") == str(good.relative_to(tmp_path))
    assert capsys.readouterr().err.splitlines() == [
        "llava-pl: ckpt_path: auto: no checkpoint in here, starting from the beginning",
        "llava-pl: ckpt_path: auto: going on with here/checkpoints/step=1.ckpt",
    ]
    good.write_text("")
    assert refused(find_or_begin, "here", "x").endswith("start anew in another --run_dir")


def test_auto_says_nothing_of_a_folder_that_is_none(tmp_path, capsys):
    (tmp_path / "here").touch()
    assert refused(find_or_begin, "here", "x") == (
        "run_dir: here: expected a folder or a new name, found a file; choose another place"
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("variable", RANK_VARIABLES)
def test_one_process_speaks_and_tidies(tmp_path, monkeypatch, capsys, variable):
    (tmp_path / "metrics.csv").touch()
    monkeypatch.setenv(variable, "1")
    assert find_or_begin("here", "x") is None
    keep_old_logs(tmp_path, with_ledger=True)
    assert capsys.readouterr().err == ""
    assert (tmp_path / "metrics.csv").exists()


def test_last_without_its_link(tmp_path):
    """A kill between the file and the link."""
    newest = checkpoint(tmp_path / "here" / "checkpoints" / "step=1.ckpt")
    (tmp_path / "here" / "checkpoints" / "last.ckpt").symlink_to("step=9.ckpt")
    assert find_checkpoint("last", run_dir="here", name="x") == str(newest.relative_to(tmp_path))


def test_what_continues_a_run(tmp_path):
    path = str(tmp_path / "runs" / "x" / "checkpoints" / "step=1.ckpt")
    run = tmp_path / "runs" / "x"
    assert continued_run(path, None, is_last=True) == run
    assert continued_run(path, None, is_last=False) is None
    assert continued_run(path, str(run), is_last=False) == run
    assert continued_run(path, str(tmp_path / "other"), is_last=True) is None


@pytest.mark.parametrize(
    ("command", "trained", "expected"),
    [("fit", True, "metrics.csv"), ("test", False, "metrics.csv"), ("test", True, "metrics-test.csv")],
)
def test_an_evaluation_has_a_log_of_its_own(tmp_path, command, trained, expected):
    if trained:
        (tmp_path / "ledger").mkdir()
    assert choose_log(tmp_path, command) == expected


def test_old_logs_are_moved_aside(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "metrics.csv").write_text(text)
        (tmp_path / "ledger").mkdir(exist_ok=True)
        keep_old_logs(tmp_path, with_ledger=text == "second")
    assert [(tmp_path / f"metrics-{number}.csv").read_text() for number in (1, 2)] == ["first", "second"]
    assert not (tmp_path / "metrics.csv").exists()
    assert (tmp_path / "ledger-1").is_dir()


@pytest.fixture
def at_work(tmp_path):
    """Another process that has claimed the folder of a run."""
    words = "from pathlib import Path; from llava_pl.run_folder import claim_folder"
    claim = f"held = claim_folder(Path({str(tmp_path)!r})); print('claimed', flush=True); input()"
    line = [sys.executable, "-c", f"{words}; {claim}"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_folder_in_which_a_run_is_at_work_is_refused(tmp_path, at_work):
    message = f"run_dir: {tmp_path}: expected a folder in which no run is at work, found one{{}}; wait until it ends"
    assert refused(claim_folder, tmp_path).startswith(message.format(""))
    state = new_state("fit", ["fit"], tmp_path, None)
    write_state(tmp_path, state)
    who = f": process {state.pid} on {state.host}, `llava-pl fit`"
    assert refused(claim_folder, tmp_path).startswith(message.format(who))
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert "no run is at work" in refused(claim_folder, moved)


def test_a_folder_is_free_when_its_process_is_gone(tmp_path, at_work):
    at_work.kill()
    at_work.wait()
    first, second = claim_folder(tmp_path), claim_folder(tmp_path)  # nor does a process refuse itself
    first.close()
    second.close()


def test_the_other_processes_of_a_launch_are_not_refused(tmp_path, at_work, monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "1")
    assert claim_folder(tmp_path) is None


def test_disks_without_locks(tmp_path, at_work, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert claim_folder(tmp_path) is None


def test_who_is_at_work_may_have_left_a_damaged_record(tmp_path, at_work):
    (tmp_path / "state.json").write_text("{")
    assert "found one; wait until it ends" in refused(claim_folder, tmp_path)
