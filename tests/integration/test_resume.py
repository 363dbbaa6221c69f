"""Guards: a run that was killed goes on as another run than the one that was not.

Everything is compared to the last bit: weights, optimizer, schedule, counters, position in the data, logged numbers.
The decoder has dropout in its attention, so that a random state that is off by one draw shows in the next loss.
"""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.ledger_file import verify_ledger
from llava_pl.run_folder import RUN_DIR_VARIABLE
from llava_pl.training import checkpoint_io

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_RECORDS = 14
"""Seven micro batches of two: with an accumulation of three, the last step of an epoch is a shorter one."""

ASSASSIN = '''
import os, signal
from lightning.pytorch.callbacks import Callback

class Killed(BaseException):
    """Ends a run as a kill does: nothing of ours answers to it."""

class Assassin(Callback):
    """Acts at the beginning of a micro batch (counted over epochs), or within a validation (its batch)."""

    def __init__(self, batch: int = -1, validation: int = -1, number: int = 0, times: int = 1):
        self.batch, self.validation, self.number, self.times = batch, validation, number, times
        self.seen = self.validated = 0

    def strike(self):
        if not self.number:
            raise Killed
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen += 1
        if self.seen - 1 == self.batch:
            self.strike()

    def on_validation_batch_end(self, trainer, *_):
        if trainer.sanity_checking:
            return
        self.validated += 1
        if self.validated - 1 == self.validation:
            self.strike()
'''

STUCK_WRITER = """
import threading
from llava_pl.training import checkpoint_io

class Stuck(checkpoint_io._HashingFile):
    num_files = 0
    is_stuck = threading.Event()

    def __init__(self, file):
        super().__init__(file)
        Stuck.num_files += 1

    def write(self, data):
        if Stuck.num_files == 3:
            Stuck.is_stuck.set()
            threading.Event().wait()
        return super().write(data)

class PatientAssassin(Assassin):
    def strike(self):
        assert Stuck.is_stuck.wait(60)
        super().strike()

checkpoint_io._HashingFile = Stuck
Assassin = PatientAssassin
"""

SLOW_WRITER = """
import time
from llava_pl.training import checkpoint_io

class Slow(checkpoint_io._HashingFile):
    def __init__(self, file):
        super().__init__(file)
        time.sleep(12)  # Lightning looks every five seconds whether another process has ended

checkpoint_io._HashingFile = Slow
"""


@pytest.fixture
def root(tmp_path, tiny_parts, monkeypatch):
    """A folder with data, a decoder that drops out, and the assassin."""
    shutil.copytree(tiny_parts / "decoder", tmp_path / "decoder")
    settings = json.loads((tmp_path / "decoder" / "config.json").read_text())
    (tmp_path / "decoder" / "config.json").write_text(json.dumps(settings | {"attention_dropout": 0.2}))
    rng, records = np.random.default_rng(0), []
    for number in range(NUM_RECORDS):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "abcde"[: 1 + number % 5]}]
        records.append({"id": "same", "image": f"{number}.png", "conversations": turns})
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "val.json").write_text(json.dumps(records[:5]))
    (tmp_path / "assassin.py").write_text(ASSASSIN)
    config = {
        "model": {
            "stage": "finetune",
            "vision_encoder": {"path": str(tiny_parts / "encoder")},
            "decoder": {"path": str(tmp_path / "decoder")},
            "optim": {"learning_rate": 0.01, "warmup_share": 0.1},
        },
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {"records": "records.json", "image_folder": ".", "batch_size": 2, "num_workers": 0},
        },
        "trainer": {
            "max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
        },
        "save_every_n_steps": 2,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "assassin", raising=False)  # that of an earlier test
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in `start`: sums over other numbers of threads end in other bits on some processors
    yield tmp_path
    torch.set_num_threads(num_threads)


def fit(*words: str, run: str = "run", **assassin: int) -> int:
    """Run `fit` in this process; 137 when it was killed."""
    words = ("fit", "--config", "config.yaml", "--run_dir", run, *words)
    if assassin:
        callback = {"class_path": "assassin.Assassin", "init_args": assassin}
        Path("assassin.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        words += ("--config", "assassin.yaml")
    try:
        return main(words)
    except SystemExit as stop:
        return stop.code
    except BaseException as error:
        if type(error).__name__ != "Killed":
            raise
        return 137


def fit_in_a_process(*words: str, run: str = "run", **assassin: int) -> int:
    """Run `fit` in a process group of its own, forked so that nothing is imported again; minus the signal if killed."""
    if (process := os.fork()) == 0:
        status = 1
        try:
            os.setsid()
            status = fit(*words, run=run, **assassin)
        finally:
            os._exit(status)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    except BaseException:  # the time limit
        os.killpg(process, signal.SIGKILL)
        raise


def rows(run: str) -> list[dict[str, str]]:
    """Return the log without what depends on the clock."""
    with (Path(run) / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in csv.DictReader(file)]


def differences(found, expected, place="") -> list[str]:
    """Return where two nested values differ, tensors by their bits."""
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return [f"{place}: {found.keys() ^ expected.keys()}"]
        return [line for key in expected for line in differences(found[key], expected[key], f"{place}/{key}")]
    if isinstance(expected, list | tuple):
        if len(found) != len(expected):
            return [place]
        return [line for i in range(len(expected)) for line in differences(found[i], expected[i], f"{place}/{i}")]
    is_same = torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
    return [] if is_same else [f"{place}: {found} is not {expected}"]


def load(run: str) -> dict:
    """Return the last checkpoint."""
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_run(run: str, expected: str) -> None:
    assert differences(load(run), load(expected)) == []
    assert rows(run) == rows(expected)
    reports = verify_ledger(run)
    assert [(r.epoch, r.num_seen, r.num_repeated, r.num_missing) for r in reports] == [
        (epoch, NUM_RECORDS, 0, 0) for epoch in (0, 1)
    ]


def test_dropout_is_at_work(root):
    """Otherwise the tests below would prove little."""
    fit("--trainer.max_steps", "1", run="a")
    path = root / "decoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_dropout": 0.0}))
    fit("--trainer.max_steps", "1", run="b")
    assert rows("a")[0]["train/loss"] != rows("b")[0]["train/loss"]


@pytest.mark.parametrize(
    ("accumulate", "in_background"), [(1, "true"), pytest.param(3, "true", marks=pytest.mark.slow), (3, "false")]
)
def test_killed_at_any_micro_batch(root, accumulate, in_background):
    words = ("--trainer.accumulate_grad_batches", str(accumulate), "--save_in_background", in_background)
    assert fit(*words, run="whole") == 0
    # In the second epoch, too; at its very first micro batch the checkpoint is that of the first one's end.
    for batch in (8,) if accumulate == 1 else (7, 10):
        run = f"killed-{batch}"
        assert fit(*words, run=run, batch=batch) == 137
        assert fit(*words, "--ckpt_path", "last", run=run) == 0
        assert_same_run(run, "whole")


def test_killed_at_the_beginning_of_an_epoch_with_a_number_of_steps(root):
    words = ("--trainer.max_epochs", "null", "--trainer.max_steps", "14")
    fit(*words, run="whole")
    assert fit(*words, batch=7) == 137
    assert fit(*words, "--ckpt_path", "last") == 0
    assert_same_run("run", "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--trainer.max_epochs", "null", "--trainer.max_steps", "STEPS"),
        ("--data.init_args.val_records", "val.json"),
    ],
    ids=["epochs", "steps", "validation"],
)
def test_kill_9_at_every_micro_batch(root, words, accumulate, workers):
    words = [word.replace("STEPS", str({1: 14, 3: 6}[accumulate])) for word in words]
    words += ["--trainer.accumulate_grad_batches", str(accumulate)]
    fit(*words, run="whole")
    words += ["--data.init_args.num_workers", str(workers)]
    for batch in range(14):
        run = f"killed-{batch}"
        assert fit_in_a_process(*words, run=run, batch=batch, number=int(signal.SIGKILL)) == -signal.SIGKILL
        assert batch < 4 * accumulate or list((root / run / "checkpoints").glob("step=*.ckpt"))
        # Before the first checkpoint this begins anew. The link to a newer one may not have been made yet.
        assert fit(*words, "--ckpt_path", "auto", run=run) == 0
        assert_same_run(run, "whole")


VALIDATES = ("--data.init_args.val_records", "val.json", "--trainer.val_check_interval", "3")
"""After the micro batches 3 and 6 of each epoch: within it, and not at its end."""


@pytest.mark.parametrize(
    "at", [{"validation": 1}, pytest.param({"batch": 4}, marks=pytest.mark.slow), {"batch": 6}], ids=str
)
def test_killed_around_a_validation(root, at):
    words = (*VALIDATES, "--save_every_n_steps", "3")
    fit(*words, run="whole")
    assert sum(row["val/loss"] != "" for row in rows("whole")) == 4
    assert fit(*words, **at) == 137
    assert fit(*words, "--ckpt_path", "last") == 0
    assert_same_run("run", "whole")


@pytest.mark.parametrize(
    ("words", "at", "number", "step"),
    [
        pytest.param(  # within the second step
            ("--trainer.accumulate_grad_batches", "3"), {"batch": 4}, signal.SIGTERM, 2, marks=pytest.mark.slow
        ),
        (("--trainer.accumulate_grad_batches", "3"), {"batch": 6}, signal.SIGUSR1, 3),  # in the last one of an epoch
        (VALIDATES, {"validation": 10}, signal.SIGTERM, 13),  # in the last one, so that its counters stay to the end
        pytest.param(VALIDATES, {"batch": 2}, signal.SIGTERM, 3, marks=pytest.mark.slow),  # a validation follows
        (("--data.init_args.val_records", "val.json"), {"validation": 1}, signal.SIGTERM, 7),  # at the end of an epoch
    ],
)
def test_told_to_stop(root, capsys, words, at, number, step):
    fit(*words, run="whole")
    assert fit(*words, "--save_every_n_steps", "100", **at, number=int(number), times=2) == 128 + number
    error = capsys.readouterr().err
    assert f"llava-pl: stopped by {number.name} after step {step}, which is saved\n" in error
    assert (root / "run" / "checkpoints" / "last.ckpt").resolve().name == f"step={step}.ckpt"
    command = shlex.split(re.search("resume with: (.*)", error)[1])
    assert command[-4:] == ["--run_dir", "run", "--ckpt_path", "last"]
    assert signal.getsignal(number) == signal.SIG_DFL
    assert fit(*words, "--ckpt_path", "last") == 0
    assert_same_run("run", "whole")


def test_a_run_is_continued_in_its_folder(root):
    words = ("fit", "--config", "config.yaml")
    assert main([*words, "--trainer.max_steps", "3"]) == 0
    os.environ.pop(RUN_DIR_VARIABLE)
    assert main([*words, "--trainer.max_steps", "9", "--ckpt_path", "last"]) == 0
    (run,) = (root / "runs" / "run").iterdir()
    assert [int(row["step"]) for row in rows(run) if row["train/loss"]] == list(range(9))
    assert sorted(path.name for path in run.glob("config*.yaml")) == ["config-1.yaml", "config.yaml"]
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 3
    assert [(r.num_repeated, r.num_missing) for r in verify_ledger(run)] == [(0, 0), (0, NUM_RECORDS - 4)]


def test_a_finished_run_stays_as_it_is(root):
    fit("--trainer.max_epochs", "1")
    before = {path: path.read_bytes() for path in sorted((root / "run").rglob("*")) if path.is_file()}
    assert fit("--trainer.max_epochs", "1", "--ckpt_path", "last") == 0
    assert {path: path.read_bytes() for path in sorted((root / "run").rglob("*")) if path.is_file()} == before


def test_a_longer_run_goes_on_within_the_epoch(root):
    """Lightning takes the end of a run for the end of an epoch, and would go on with the next one."""
    fit("--trainer.max_steps", "3")
    fit("--trainer.max_steps", "7", "--ckpt_path", "last")
    assert [(r.epoch, r.num_seen, r.num_repeated) for r in verify_ledger("run")] == [(0, NUM_RECORDS, 0)]


def test_a_shortened_epoch_is_followed_by_a_whole_new_one(root):
    words = ("--trainer.limit_train_batches", "4")
    fit(*words, run="whole")
    assert fit(*words, batch=4) == 137
    assert fit(*words, "--ckpt_path", "last") == 0
    assert differences(load("run"), load("whole")) == []
    assert rows("run") == rows("whole")


def test_newest_two_checkpoints_stay(root):
    fit("--save_every_n_steps", "3")
    names = sorted(path.name for path in (root / "run" / "checkpoints").iterdir())
    files = [f"step={step}.ckpt{ending}" for step in (12, 14) for ending in ("", ".json")]
    assert names == sorted([*files, "last.ckpt"])
    assert (root / "run" / "checkpoints" / "last.ckpt").is_symlink()


def test_minutes(root):
    fit("--save_every_n_steps", "null", "--save_every_minutes", "0", "--keep_checkpoints", "99")
    assert len(list((root / "run" / "checkpoints").glob("step=*.ckpt"))) == 14


def test_a_damaged_checkpoint_is_passed_over(root):
    fit(run="whole")
    fit()
    last = root / "run" / "checkpoints" / "step=14.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    with pytest.warns(UserWarning, match=r"step=14.ckpt is damaged .its bytes are not.*; going on with .*step=12.ckpt"):
        assert fit("--ckpt_path", "last") == 0
    assert_same_run("run", "whole")


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(root, capsys, monkeypatch):
    class FullDisk(checkpoint_io._HashingFile):
        num_files = 0

        def __init__(self, file):
            super().__init__(file)
            FullDisk.num_files += 1

        def write(self, data):
            if FullDisk.num_files == 3 and self.num_bytes > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    fit(run="whole")
    monkeypatch.setattr(checkpoint_io, "_HashingFile", FullDisk)
    assert fit() == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("llava-pl: error: checkpoint: ")
    assert "step=6.ckpt: cannot be written: No space left on device; older checkpoints are as they were" in line
    assert fit("--ckpt_path", "last") == 0
    assert_same_run("run", "whole")


def test_ctrl_c_says_how_to_go_on(root, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert fit(batch=5, number=int(signal.SIGINT)) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    error = capsys.readouterr().err
    assert "llava-pl: resume with: llava-pl fit --config config.yaml" in error
    assert error.endswith("llava-pl: interrupted\n")


def start(*words: str, run: str = "run", **assassin: int) -> subprocess.Popen:
    """Start `fit` in a process group of its own."""
    command = [sys.executable, "-m", "llava_pl", "fit", "--config", "config.yaml", "--run_dir", run, *words]
    if assassin:
        callback = {"class_path": "assassin.Assassin", "init_args": assassin}
        Path("assassin.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        command += ["--config", "assassin.yaml"]
    path = os.pathsep.join([str(REPOSITORY), str(Path.cwd())])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_kill_9_with_workers(root):
    words = ("--data.init_args.num_workers", "2", "--trainer.accumulate_grad_batches", "3")
    fit("--trainer.accumulate_grad_batches", "3", run="whole")
    assert fit_in_a_process(*words, batch=10, number=int(signal.SIGKILL)) == -signal.SIGKILL
    assert fit(*words, "--ckpt_path", "last") == 0
    assert_same_run("run", "whole")


def test_kill_9_while_a_checkpoint_is_written(root):
    fit(run="whole")
    (root / "assassin.py").write_text((root / "assassin.py").read_text() + STUCK_WRITER)
    assert fit_in_a_process(batch=6, number=int(signal.SIGKILL)) == -signal.SIGKILL
    folder = root / "run" / "checkpoints"
    assert (folder / ".step=6.ckpt.tmp").exists()
    assert (folder / "last.ckpt").resolve().name == "step=4.ckpt"
    assert fit("--ckpt_path", "last") == 0
    assert list(folder.glob(".*")) == []
    assert_same_run("run", "whole")


def test_sigterm_to_a_whole_process_group_with_workers(root, capfd):
    """As a cluster sends it: the workers get it, too."""
    words = ("--data.init_args.num_workers", "2", "--trainer.accumulate_grad_batches", "3")
    fit("--trainer.accumulate_grad_batches", "3", run="whole")
    source = (root / "assassin.py").read_text()
    (root / "assassin.py").write_text(source.replace("os.kill(os.getpid(), ", "os.killpg(os.getpid(), "))
    assert fit_in_a_process(*words, batch=7, number=int(signal.SIGTERM), times=2) == 143
    assert "resume with: llava-pl fit" in capfd.readouterr().err
    assert fit(*words, "--ckpt_path", "last") == 0
    assert_same_run("run", "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_two_processes(root, number):
    """SIGTERM reaches the first one alone, and both stop after the same step, which takes long to be written."""
    words = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "3")
    whole = start(*words, run="whole")
    assert whole.wait(timeout=200) == 0
    source = (root / "assassin.py").read_text()
    where = "if trainer.global_rank == 0 and self.seen - 1 == self.batch:"
    source = source.replace("if self.seen - 1 == self.batch:", where)
    if number == signal.SIGTERM:
        source += SLOW_WRITER
    else:
        source = source.replace("os.kill(os.getpid(), ", "os.killpg(os.getpgid(0), ")
    (root / "assassin.py").write_text(source)
    process = start(*words, batch=6, number=int(number))
    _, error = process.communicate(timeout=200)
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[number], error
    again = start(*words, "--ckpt_path", "last")
    _, error = again.communicate(timeout=200)
    assert again.returncode == 0, error
    assert differences(load("run"), load("whole")) == []
    assert rows("run") == rows("whole")
    assert [(r.num_seen, r.num_padding, r.is_good) for r in verify_ledger("run")] == [(NUM_RECORDS, 0, True)] * 3
