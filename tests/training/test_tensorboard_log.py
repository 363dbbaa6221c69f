"""Guards: numbers that TensorBoard does not show, or shows elsewhere than in the folder of the run."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llava_pl.training import tensorboard_log
from llava_pl.training.tensorboard_log import TensorBoardLog
from llava_pl.types import InputError


def test_numbers_come_back(tmp_path):
    log = TensorBoardLog()
    log.settle(tmp_path)
    log.log_metrics({"train/loss": 2.5}, 9)
    log.log_metrics({"train/loss": 1.5, "val/loss": 1.75}, 19)
    log.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["train/loss", "val/loss"]
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [(9, 2.5), (19, 1.5)]


def test_without_the_package_there_is_one_line(monkeypatch):
    monkeypatch.setattr(tensorboard_log, "is_installed", lambda name: False)
    with pytest.raises(InputError, match=r"^trainer.logger: TensorBoardLog: expected the package tensorboard, found n"):
        TensorBoardLog()
