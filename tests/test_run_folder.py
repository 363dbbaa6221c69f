"""Guards: two runs in one folder, a checkpoint that is none found out after minutes of loading, a name that escapes."""

import os
import re

import pytest
import torch

from llava_pl.run_folder import RUN_DIR_VARIABLE, check_checkpoint, choose_run_dir, find_checkpoint, keep_old_metrics
from llava_pl.types import InputError


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


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


def test_a_given_folder(tmp_path):
    assert choose_run_dir("here", "x").name == "here"
    (tmp_path / "file").touch()
    assert refused(choose_run_dir, "file", "x").startswith("run_dir: file: expected a folder or a new name")


@pytest.mark.parametrize("name", ["a/../../b", "/a", "", ".."])
def test_a_name_cannot_leave_the_folder_of_runs(name):
    assert refused(choose_run_dir, None, name).startswith(f"name: {name!r}: expected a plain folder name")
    assert refused(find_checkpoint, "last", run_dir=None, name=name).startswith(f"name: {name!r}")


def test_last_is_that_of_the_newest_run_which_has_one(tmp_path):
    checkpoint(tmp_path / "runs" / "x" / "2026-01-01_00-00-00" / "checkpoints" / "last.ckpt")
    newest = checkpoint(tmp_path / "runs" / "x" / "2026-01-02_00-00-00" / "checkpoints" / "last.ckpt")
    (tmp_path / "runs" / "x" / "2026-01-03_00-00-00").mkdir()
    checkpoint(tmp_path / "runs" / "y" / "2026-01-04_00-00-00" / "checkpoints" / "last.ckpt")
    assert find_checkpoint("last", run_dir=None, name="x") == str(newest.relative_to(tmp_path))
    here = checkpoint(tmp_path / "here" / "checkpoints" / "last.ckpt")
    assert find_checkpoint("last", run_dir="here", name="x") == str(here.relative_to(tmp_path))


def test_last_of_nothing():
    found = refused(find_checkpoint, "last", run_dir=None, name="x")
    assert found == "ckpt_path: last: no checkpoints/last.ckpt in runs/x; give the path of a checkpoint"


@pytest.mark.parametrize("word", ["best", "hpc", "registry"])
def test_other_words_are_refused(word):
    assert refused(find_checkpoint, word, run_dir=None, name="x").startswith(f"ckpt_path: {word}: expected 'last' or")


def test_a_checkpoint_is_complete(tmp_path):
    path = checkpoint(tmp_path / "a.ckpt")
    assert find_checkpoint("a.ckpt", run_dir=None, name="x") == "a.ckpt"
    path.write_bytes(path.read_bytes()[:-40])
    assert refused(check_checkpoint, path, "ckpt_path").endswith("found another or an incomplete file; use an older")
    assert "found a folder" in refused(check_checkpoint, tmp_path, "ckpt_path")
    assert refused(check_checkpoint, tmp_path / "b", "ckpt_path").endswith("b: no such file; check the path")


def test_old_metrics_are_moved_aside(tmp_path):
    for text in ("first", "second"):
        (tmp_path / "metrics.csv").write_text(text)
        keep_old_metrics(tmp_path)
    assert [(tmp_path / f"metrics-{number}.csv").read_text() for number in (1, 2)] == ["first", "second"]
    assert not (tmp_path / "metrics.csv").exists()
