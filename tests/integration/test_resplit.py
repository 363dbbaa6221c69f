"""Guards: a run that goes on with its global batches split otherwise learns from other samples than it would have.

Compared with a run that was never stopped: the samples of each step over all ranks, learning rates, losses, weights,
and Lightning's own counters.
"""

import csv
import json
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import yaml

from llava_pl.cli import main
from llava_pl.ledger_file import ledger_path, read_ledger, verify_ledger
from llava_pl.run_folder import RUN_DIR_VARIABLE

NUM_RECORDS = 26
"""Steps of six samples, the last one of each epoch of two."""

ASSASSIN = '''
import os
from lightning.pytorch.callbacks import Callback

class Killed(BaseException):
    """Ends a run as a kill does: nothing of ours answers to it."""

class StepAssassin(Callback):
    """Strikes when so many steps are done, or within a validation; given a signal, with that."""

    def __init__(self, step: int = -1, validation: int = -1, number: int = 0):
        self.step, self.validation, self.number = step, validation, number
        self.validated = 0

    def strike(self):
        if not self.number:
            raise Killed
        os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            self.strike()

    def on_validation_batch_end(self, trainer, *_):
        self.validated += 1
        if self.validated == self.validation:
            self.strike()
'''


@pytest.fixture
def root(tmp_path, tiny_parts, monkeypatch):
    """A folder with data and the assassin."""
    records = []
    for number in range(NUM_RECORDS):
        turns = [{"from": "human", "value": f"Q{number}?"}, {"from": "gpt", "value": "abcdefg"[: 1 + number % 7]}]
        records.append({"id": "same", "conversations": turns})
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "val.json").write_text(json.dumps(records[:5]))
    (tmp_path / "step_assassin.py").write_text(ASSASSIN)
    config = {
        "model": {
            "stage": "finetune",
            "vision_encoder": {"path": str(tiny_parts / "encoder")},
            "decoder": {"path": str(tiny_parts / "decoder")},
            "optim": {"learning_rate": 0.01, "warmup_share": 0.1},
        },
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {"records": "records.json", "image_folder": ".", "eval_batch_size": 2, "num_workers": 0},
        },
        "trainer": {
            "max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False,
            "num_sanity_val_steps": 0,
        },
        "save_every_n_steps": 1,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")  # so that it is taken back
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(num_threads)


Split = tuple[int, int, int]
"""Ranks, micro batches that a rank accumulates, and samples of a micro batch."""


def fit(split: Split, *words: str, run: str = "run", **assassin: int) -> None:
    """Run `fit`, unless the assassin strikes to its end."""
    ranks, num_micro_batches, batch_size = split
    settings = {"trainer": {"devices": ranks, "accumulate_grad_batches": num_micro_batches}}
    settings["data"] = {"init_args": {"batch_size": batch_size}}
    # As by default: it asks for metrics on the first rank alone.
    settings["trainer"]["enable_progress_bar"] = ranks > 1
    if ranks > 1:
        settings["trainer"]["strategy"] = "ddp_fork"  # as "ddp", but that nothing is imported again
    if assassin:
        callback = {"class_path": "step_assassin.StepAssassin", "init_args": assassin}
        settings["trainer"]["callbacks"] = [callback]
    Path("split.yaml").write_text(yaml.safe_dump(settings))
    words = ("fit", "--config", "config.yaml", "--config", "split.yaml", "--run_dir", run, *words)
    try:
        status = main(words)
    except BaseException as error:
        if not assassin or type(error).__name__ not in ("Killed", "ProcessExitedException"):
            raise
    else:
        assert (status, assassin) == (0, {})


def steps(run: str, num_ranks: int = 1) -> dict[int, list[int]]:
    """Return for each step the samples of all ranks, sorted."""
    entries = [entry for rank in range(num_ranks) for entry in read_ledger(ledger_path(run, rank))]
    numbers = sorted({entry.step for entry in entries})
    return {step: sorted(int(i) for e in entries if e.step == step for i in e.indices) for step in numbers}


def rows(run: str) -> list[dict[str, str]]:
    with (Path(run) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def load(run: str) -> dict:
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_run(run: str, expected: str, num_ranks: int = 1) -> None:
    assert steps(run, num_ranks) == steps(expected)
    found, whole = load(run), load(expected)
    assert found["lr_schedulers"] == whole["lr_schedulers"]
    assert (found["global_step"], found["epoch"]) == (whole["global_step"], whole["epoch"])
    # Measured: 5e-7 of the norm, two ranks in between; 0.4 with another order of samples or another warm-up.
    for name, weight in whole["state_dict"].items():
        assert (found["state_dict"][name] - weight).norm() <= 1e-5 * weight.norm(), name
    found, whole = rows(run), rows(expected)
    assert [row["step"] for row in found] == [row["step"] for row in whole]
    for name in ("epoch", "lr/decay", "lr/no_decay"):
        assert [row[name] for row in found] == [row[name] for row in whole]
    for name in ("train/loss", "val/loss", "data/seen/records"):
        values = [float(row[name]) for row in whole if row.get(name)]
        # Measured: 1.2e-7; 0.1 with the mistakes above.
        assert [float(row[name]) for row in found if row.get(name)] == pytest.approx(values, rel=1e-5)
    reports = verify_ledger(run)
    assert [(r.num_seen, r.num_padding, r.is_whole, r.is_good) for r in reports] == [(NUM_RECORDS, 0, True, True)] * 2


def assert_goes_on(first: Split, second: Split, *words: str, strikes: Iterable[dict[str, int]]) -> None:
    """Kill runs, go on in another split, and compare with runs that were never stopped."""
    fit(first, *words, run="whole")
    fit(second, *words, run="whole-second")
    for strike in strikes:
        run = str(strike)
        fit(first, *words, run=run, **strike)
        fit(second, *words, "--ckpt_path", "last", run=run)
        assert_same_run(run, "whole")
        assert load(run)["loops"] == load("whole-second")["loops"]


VALIDATES = ("--data.val_records", "val.json", "--trainer.val_check_interval", "0.5")
"""After two steps of an epoch and after four, in each split that is used with it."""


def test_other_micro_batches(root):
    """Also at the end of an epoch, which has a shorter step."""
    assert_goes_on((1, 2, 3), (1, 6, 1), strikes=[{"step": 3}, {"step": 5}])


def test_validation_that_was_not_finished(root):
    assert_goes_on((1, 3, 2), (1, 1, 6), *VALIDATES, strikes=[{"validation": 4}])


def test_packed_micro_batches(root):
    assert_goes_on((1, 3, 2), (1, 2, 3), "--data.is_packed", "true", strikes=[{"step": 7}])


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [((1, 3, 2), (1, 1, 6)), ((1, 1, 6), (1, 2, 3)), ((1, 2, 3), (1, 3, 2))])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--trainer.max_epochs", "null", "--trainer.max_steps", "10"),
        VALIDATES,
        ("--data.grouping", "balanced"),
        ("--data.grouping", "length"),
        ("--data.grouping", "modality_length"),
        ("--data.is_packed", "true"),
    ],
    ids=" ".join,
)
def test_other_micro_batches_from_every_step_on(root, first, second, words):
    assert_goes_on(first, second, *words, strikes=[{"step": step} for step in range(1, 10)])


@pytest.mark.parametrize(
    "words",
    [
        (),
        pytest.param(VALIDATES, marks=pytest.mark.slow),
        pytest.param(("--data.grouping", "balanced"), marks=pytest.mark.slow),
        pytest.param(("--data.is_packed", "true"), marks=pytest.mark.slow),
        pytest.param(("--data.num_workers", "2"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_two_ranks_to_one_and_back(root, words):
    fit((1, 1, 6), *words, run="whole")
    fit((2, 1, 3), *words, step=2, number=int(signal.SIGKILL))
    fit((1, 2, 3), *words, "--ckpt_path", "last", step=7)
    fit((2, 3, 1), *words, "--ckpt_path", "last")
    assert_same_run("run", "whole", num_ranks=2)


def test_another_global_batch_is_refused(root, capsys):
    fit((1, 3, 2), step=2)
    capsys.readouterr()
    words = ("fit", "--config", "config.yaml", "--run_dir", "run", "--ckpt_path", "last", "--data.batch_size", "4")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line == (
        "llava-pl: error: data.batch_size: 4 samples a micro batch over all devices, 1 of them a step, but the "
        "checkpoint was made with 2 and 3; change data.batch_size or trainer.accumulate_grad_batches so that a step "
        "has 6 samples, or start anew with --model.init_from"
    )
