"""Guards: a run that ends without saying so, whose pictures end it, or whose record an evaluation overwrites."""

import errno
from types import SimpleNamespace

import pytest

from llava_pl.run_state import find_state, read_state
from llava_pl.training import run_record
from llava_pl.training.run_record import RunRecord
from llava_pl.types import InputError

LOG = "step,train/loss\n0,2.0\n1,1.0\n"


@pytest.fixture
def trainer(monkeypatch):
    monkeypatch.setattr(run_record, "count_optimizer_steps", lambda trainer: 100)
    monkeypatch.delenv("RANK", raising=False)
    return SimpleNamespace(global_step=40, is_global_zero=True, loggers=[], datamodule=None)


def record(run_dir, command="fit", *, is_continued=False):
    return RunRecord(run_dir, command, [command, "--config", "a.yaml"], "align", is_continued=is_continued)


def test_from_start_to_end(tmp_path, trainer):
    (tmp_path / "metrics.csv").write_text(LOG)
    mine = record(tmp_path)
    with mine.keep(trainer):
        state = read_state(tmp_path)
        assert (state.status, state.total_steps, find_state(state, tmp_path)) == ("running", None, "running")
        mine.on_train_start(trainer, None)
        assert read_state(tmp_path).total_steps == 100
        assert not (tmp_path / "curves.png").exists()
    state = read_state(tmp_path)
    assert (state.status, state.reason, state.step, state.total_steps) == ("finished", None, 40, 100)
    assert state.ended >= state.started
    assert (tmp_path / "curves.png").is_file()
    assert "stage align</h1>" in (tmp_path / "curves.html").read_text()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SystemExit(143), ("interrupted", "SIGTERM")), (KeyboardInterrupt(), ("interrupted", "Ctrl-C")),
        (InputError("data: bad"), ("failed", "InputError: data: bad")),
    ],
)  # fmt: skip
def test_however_it_ends(tmp_path, trainer, error, expected):
    (tmp_path / "metrics.csv").write_text(LOG)
    with pytest.raises(type(error)), record(tmp_path).keep(trainer):
        raise error
    state = read_state(tmp_path)
    assert (state.status, state.reason) == expected
    assert (tmp_path / "curves.html").is_file()


def test_starts_are_counted(tmp_path, trainer):
    for is_continued, expected in ((False, 1), (True, 2), (True, 3), (False, 1)):
        trainer.global_step += 1
        mine = record(tmp_path, is_continued=is_continued)
        with mine.keep(trainer):
            assert read_state(tmp_path).num_starts == expected
            mine.on_train_start(trainer, None)


def begin(mine, trainer, error):
    with mine.keep(trainer):
        mine.on_train_start(trainer, None)
        raise error


@pytest.mark.parametrize("error", [InputError("data: another"), KeyboardInterrupt(), SystemExit(143)])
def test_a_run_that_cannot_go_on_keeps_its_record(tmp_path, trainer, error):
    with pytest.raises(SystemExit):
        begin(record(tmp_path), trainer, SystemExit(138))
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(type(error)), record(tmp_path, is_continued=True).keep(trainer):
        raise error
    assert (tmp_path / "state.json").read_bytes() == before


def test_a_run_that_fails_after_it_went_on_says_so(tmp_path, trainer):
    for is_continued in (False, True):
        with pytest.raises(InputError):
            begin(record(tmp_path, is_continued=is_continued), trainer, InputError(str(is_continued)))
    assert (read_state(tmp_path).num_starts, read_state(tmp_path).reason) == (2, "InputError: True")


def test_a_finished_run_that_is_started_again_stays_as_it_is(tmp_path, trainer):
    with record(tmp_path).keep(trainer):
        pass
    before = (tmp_path / "state.json").read_bytes()
    with record(tmp_path, is_continued=True).keep(trainer):
        assert read_state(tmp_path).num_starts == 2
    assert (tmp_path / "state.json").read_bytes() == before


@pytest.mark.parametrize("is_old", [False, True])
def test_an_evaluation_leaves_the_record_of_its_run(tmp_path, trainer, is_old):
    (tmp_path / "ledger").mkdir()
    if not is_old:
        with record(tmp_path).keep(trainer):
            pass
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with record(tmp_path, "validate").keep(trainer):
        pass
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_evaluation_has_a_record_and_no_curves(tmp_path, trainer):
    (tmp_path / "metrics.csv").write_text(LOG)
    with record(tmp_path, "test").keep(trainer):
        pass
    state = read_state(tmp_path)
    assert (state.command, state.status, state.step) == ("test", "finished", None)
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("kind", ["trial", "other process"])
def test_nothing_is_written(tmp_path, trainer, monkeypatch, kind):
    trainer.fast_dev_run = kind == "trial"
    if kind == "other process":
        monkeypatch.setenv("RANK", "1")
    with record(tmp_path / "run").keep(trainer):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("log", "said"),
    [("no log\n", "metrics.csv: expected the column 'step' in line 1"), (None, "PermissionError: no writing here")],
)
def test_what_cannot_be_drawn_or_written_does_not_end_a_run(tmp_path, trainer, monkeypatch, log, said):
    def refuse(*words):
        raise PermissionError("no writing here")

    if log is None:
        monkeypatch.setattr(run_record, "write_state", refuse)
    else:
        (tmp_path / "metrics.csv").write_text(log)
    with pytest.warns(UserWarning, match=said), record(tmp_path).keep(trainer):
        pass


def test_a_full_disk_is_one_warning(tmp_path, trainer, monkeypatch):
    def fill(path, *others):
        raise OSError(errno.ENOSPC, "No space left on device", f"{path}/{len(others)}")

    (tmp_path / "metrics.csv").write_text(LOG)
    monkeypatch.setattr(run_record, "write_state", fill)
    monkeypatch.setattr(run_record, "draw_run", fill)
    with pytest.warns(UserWarning, match="not whole") as warned, record(tmp_path).keep(trainer):
        pass
    assert {str(warning.message) for warning in warned} == {
        f"what this run tells of itself is not whole ({tmp_path}: No space left on device)"
    }


def test_a_damaged_record_is_replaced(tmp_path, trainer):
    (tmp_path / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="state.json: damaged"), record(tmp_path, is_continued=True).keep(trainer):
        pass
    assert read_state(tmp_path).status == "finished"
