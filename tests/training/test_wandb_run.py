"""Guards: a run that wandb shows as several, or two runs that it shows as one."""

import re

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from llava_pl.training.processes import RANK_VARIABLES
from llava_pl.training.wandb_run import continue_wandb_runs


@pytest.fixture(autouse=True)
def _nothing_of_the_environment(monkeypatch):
    for name in ("WANDB_RUN_ID", *RANK_VARIABLES):
        monkeypatch.delenv(name, raising=False)


def given_id(tmp_path, *, is_continued, **settings):
    logger = WandbLogger(save_dir=tmp_path, **settings)
    continue_wandb_runs([CSVLogger(tmp_path), logger], tmp_path / "run", is_continued=is_continued)
    assert logger._wandb_init["id"] == logger.version
    assert logger._wandb_init["resume"] == "allow"
    return logger.version


def test_a_run_that_goes_on_has_the_same_id_and_a_new_one_another(tmp_path):
    first = given_id(tmp_path, is_continued=False)
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert given_id(tmp_path, is_continued=True) == first
    second = given_id(tmp_path, is_continued=False)
    assert second != first
    assert given_id(tmp_path, is_continued=True) == second


@pytest.mark.parametrize("content", [None, b"", b"\xff\0", b"../../x\n"])
def test_without_a_good_id_a_new_one(tmp_path, content):
    if content is not None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "wandb_id").write_bytes(content)
    first = given_id(tmp_path, is_continued=True)
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert given_id(tmp_path, is_continued=True) == first


def test_the_users_own_id_wins(tmp_path, monkeypatch):
    assert given_id(tmp_path, is_continued=False, id="mine") == "mine"
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert given_id(tmp_path, is_continued=False) is None
    assert not (tmp_path / "run").exists()


def test_without_wandb_nothing_is_written(tmp_path):
    continue_wandb_runs([CSVLogger(tmp_path)], tmp_path / "run", is_continued=False)
    assert not (tmp_path / "run").exists()


def test_the_first_process_of_all_nodes_keeps_the_id(tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")  # Lightning takes this process for the first until a trainer is made
    continue_wandb_runs([WandbLogger(save_dir=tmp_path)], tmp_path / "run", is_continued=False)
    assert not (tmp_path / "run").exists()
