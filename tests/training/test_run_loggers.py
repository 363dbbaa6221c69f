"""Guards: a run with another logger that leaves no file of its own, so that nobody can list or draw it."""

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from llava_pl.training.metrics_log import MetricsLog
from llava_pl.training.run_loggers import complete_loggers
from llava_pl.training.tensorboard_log import TensorBoardLog


@pytest.mark.parametrize("given", [None, True])
def test_by_default_the_runs_own_file(given, tmp_path):
    (logger,) = complete_loggers(given, tmp_path, "metrics.csv")
    assert isinstance(logger, MetricsLog)
    assert logger.log_dir.rstrip("/") == str(tmp_path)


def test_none_where_none_is_wanted(tmp_path):
    assert complete_loggers(False, tmp_path, "metrics.csv") == []


@pytest.mark.parametrize("is_list", [False, True])
def test_the_file_is_kept_beside_another(is_list, tmp_path):
    other = WandbLogger(save_dir=tmp_path)
    own, same = complete_loggers([other] if is_list else other, tmp_path, "metrics.csv")
    assert isinstance(own, MetricsLog)
    assert same is other


def test_it_is_not_kept_twice(tmp_path):
    given = [CSVLogger(tmp_path), MetricsLog(tmp_path)]
    assert complete_loggers(given, tmp_path, "metrics.csv") == given


def test_tensorboard_writes_into_the_folder_of_the_run(tmp_path):
    loggers = complete_loggers([TensorBoardLog(), TensorBoardLog("there")], tmp_path, "metrics.csv")
    assert [logger.root_dir.rstrip("/") for logger in loggers[1:]] == [str(tmp_path / "tensorboard"), "there"]
    assert list(tmp_path.iterdir()) == []
