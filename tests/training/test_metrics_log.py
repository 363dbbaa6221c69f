"""Guards: a log that a second start deletes, or that has a row twice or not at all."""

import csv
from types import SimpleNamespace

import pytest

from llava_pl.training.metrics_log import MetricsLog


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def log(tmp_path):
    return MetricsLog(tmp_path)


def test_a_row_is_on_disk_at_once(log, tmp_path):
    log.log_metrics({"a": 1.5}, 0)
    log.log_metrics({"a": 2.5, "b": 3.0}, 1)
    log.log_metrics({"b": 4.0}, 2)
    assert rows(tmp_path) == [
        {"a": "1.5", "b": "", "step": "0"},
        {"a": "2.5", "b": "3.0", "step": "1"},
        {"a": "", "b": "4.0", "step": "2"},
    ]
    assert log.num_rows == 3


def test_a_second_start_goes_on(log, tmp_path):
    log.log_metrics({"a": 1.0}, 0)
    again = MetricsLog(tmp_path)
    again.log_metrics({"a": 2.0}, 1)
    assert [row["a"] for row in rows(tmp_path)] == ["1.0", "2.0"]
    assert again.num_rows == 2


def test_a_torn_row_is_dropped(log, tmp_path):
    for step in range(2):
        log.log_metrics({"a": 1.0, "b": 2.0}, step)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3.0")
    again = MetricsLog(tmp_path)
    again.log_metrics({"a": 5.0, "b": 2.0}, 2)
    assert [row["a"] for row in rows(tmp_path)] == ["1.0", "1.0", "5.0"]


def test_cut(log, tmp_path):
    for step in range(4):
        log.log_metrics({"a": float(step)}, step)
    log.cut(9)
    assert log.num_rows == 4
    log.cut(2)
    log.log_metrics({"a": 7.0}, 2)
    assert [row["a"] for row in rows(tmp_path)] == ["0.0", "1.0", "7.0"]


def trainer(step, *, is_logged=True, is_epoch_end=False, metrics=(("a", 1.0),)):
    connector = SimpleNamespace(
        should_update_logs=is_logged, _first_loop_iter=None if is_epoch_end else False, metrics={"log": dict(metrics)}
    )
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=step))
    return SimpleNamespace(_logger_connector=connector, fit_loop=loop, current_epoch=0)


def test_a_row_that_is_written_ahead_is_written_once(log, tmp_path):
    log.write_ahead(trainer(3))
    assert [row["step"] for row in rows(tmp_path)] == ["3"]
    log.log_metrics({"a": 1.0, "epoch": 0}, 3)  # what the trainer then does
    log.log_metrics({"a": 2.0, "epoch": 0}, 4)
    assert [row["a"] for row in rows(tmp_path)] == ["1.0", "2.0"]


def test_another_row_of_that_step_is_kept(log, tmp_path):
    log.write_ahead(trainer(3))
    log.log_metrics({"val/loss": 1.0, "epoch": 0}, 3)
    assert len(rows(tmp_path)) == 2


def test_nothing_is_written_ahead_of_a_step_that_is_not_logged(log, tmp_path):
    log.write_ahead(trainer(3, is_logged=False))
    assert not (tmp_path / "metrics.csv").exists()


def test_the_row_of_an_epoch_is_written_ahead_with_the_number_of_its_last_step(log, tmp_path):
    log.write_ahead(trainer(4, is_logged=False, is_epoch_end=True))
    assert [row["step"] for row in rows(tmp_path)] == ["3"]
    log.log_metrics({"a": 1.0, "epoch": 0}, 3)
    assert len(rows(tmp_path)) == 1


def test_an_epoch_without_metrics_has_no_row(log, tmp_path):
    log.write_ahead(trainer(4, is_epoch_end=True, metrics=()))
    assert not (tmp_path / "metrics.csv").exists()
