"""Guards: a log that a second start deletes, or that has a row twice or not at all."""

import csv
from types import SimpleNamespace

import pytest

from llava_pl.training.metrics_log import MetricsLog
from llava_pl.types import InputError


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bytes(range(256)), "can't decode byte 0x80"),
        (b"\0" * 100, "expected the column 'step' in line 1, found none"),
        (b"a,step\r\n1,0\r\n\0\0\r\n3,2\r\n", "expected 2 values in line 3, found 1"),
        (b"a,step\r\n1,0\r\n1,2,3\r\n", "expected 2 values in line 3, found 3"),
    ],
    ids=["binary", "nul", "row", "long_row"],
)
def test_what_is_no_log_is_set_aside(tmp_path, content, reason):
    (tmp_path / "metrics.csv").write_bytes(content)
    log = MetricsLog(tmp_path)
    with pytest.warns(UserWarning, match=r"metrics.csv: damaged .*; kept as metrics-1.csv") as warned:
        log.log_metrics({"a": 5.0}, 7)
    assert reason in str(warned[0].message)
    assert (tmp_path / "metrics-1.csv").read_bytes() == content
    assert rows(tmp_path) == [{"a": "5.0", "step": "7"}]


@pytest.mark.parametrize("content", [b"", b"\r\n", b"a,step\r\n1.0,0\r\n\0\0\0"], ids=["empty", "blank", "nul_row"])
def test_what_a_power_cut_leaves_needs_no_word(tmp_path, content, recwarn):
    (tmp_path / "metrics.csv").write_bytes(content)
    MetricsLog(tmp_path).log_metrics({"a": 2.0}, 1)
    assert [row["a"] for row in rows(tmp_path)] == (["1.0", "2.0"] if b"step" in content else ["2.0"])
    assert not recwarn.list


def test_log_that_cannot_be_read(tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(InputError, match=r"metrics.csv: cannot be read .Is a directory.; move it away, resume again"):
        MetricsLog(tmp_path).log_metrics({"a": 2.0}, 1)
