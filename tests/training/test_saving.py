"""Guards: a run that is not saved when it should be, loses a good checkpoint, or stops in the midst of a step."""

import errno
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from llava_pl.training import checkpoint_io
from llava_pl.training.background import BackgroundCheckpointIO
from llava_pl.training.checkpoint_io import DurableCheckpointIO
from llava_pl.training.saving import RunCheckpoint
from llava_pl.training.stopping import STOP_SIGNALS, StopRequest
from llava_pl.types import InputError


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


@pytest.fixture
def fit(tmp_path):
    """Train eight steps an epoch and return the steps of the checkpoints that are left."""

    def run(saver, ckpt_path=None, other=(), **settings):
        torch.manual_seed(0)
        trainer = Trainer(
            accelerator="cpu", default_root_dir=tmp_path, callbacks=[saver, *other], logger=False,
            enable_progress_bar=False, enable_model_summary=False, **{"max_epochs": 1, **settings},
        )  # fmt: skip
        trainer.fit(Module(), DataLoader(torch.ones(8, 1)), ckpt_path=ckpt_path)
        return sorted(int(path.stem.removeprefix("step=")) for path in (tmp_path / "checkpoints").glob("step*.ckpt"))

    return run


def test_an_epoch_s_end_is_saved_by_default(fit, tmp_path):
    assert fit(RunCheckpoint(tmp_path), max_epochs=3) == [16, 24]
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step=24.ckpt"


def test_on_the_way(fit, tmp_path):
    assert fit(RunCheckpoint(tmp_path, every_n_steps=3, num_kept=9)) == [3, 6, 8]


def test_by_the_clock(fit, tmp_path):
    assert fit(RunCheckpoint(tmp_path, every_minutes=0, num_kept=3)) == [6, 7, 8]


def test_nothing_is_kept_of_a_trial(fit, tmp_path):
    assert fit(RunCheckpoint(tmp_path, every_n_steps=1), fast_dev_run=True) == []


def test_a_validation_without_data_does_not_keep_a_step_from_being_saved(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(Module, "validation_step", lambda *_: None, raising=False)
    monkeypatch.setattr(Module, "val_dataloader", lambda _: [])
    assert fit(RunCheckpoint(tmp_path, every_n_steps=2, num_kept=9), val_check_interval=1) == [2, 4, 6, 8]


def test_other_files_are_left_alone(fit, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.ckpt", "step=1.ckpt", ".step=5.ckpt.tmp"):
        (tmp_path / "checkpoints" / name).write_text("")
    fit(RunCheckpoint(tmp_path, every_n_steps=2))
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "step=1.ckpt", "step=6.ckpt", "step=8.ckpt", "last.ckpt"}


def test_a_run_that_went_back_deletes_its_former_future(fit, tmp_path):
    fit(RunCheckpoint(tmp_path, every_n_steps=2, num_kept=9))
    path = tmp_path / "checkpoints" / "step=2.ckpt"
    saver = RunCheckpoint(tmp_path, every_n_steps=3, num_kept=9, is_continued=True)
    assert fit(saver, ckpt_path=path, max_steps=3) == [2, 3]


@pytest.mark.parametrize("is_only_for_stops", [False, True])
def test_a_stop_waits_for_the_step_to_end(fit, tmp_path, capsys, is_only_for_stops):
    class Told(RunCheckpoint):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                signal.raise_signal(signal.SIGUSR1)
                signal.raise_signal(signal.SIGTERM)  # changes nothing

    with pytest.raises(SystemExit) as stop:
        fit(Told(tmp_path, resume_command="GO", is_only_for_stops=is_only_for_stops), accumulate_grad_batches=3)
    assert stop.value.code == 128 + signal.SIGUSR1
    assert capsys.readouterr().err.endswith(
        "llava-pl: stopped by SIGUSR1 after step 2, which is saved\nllava-pl: resume with: GO\n"
    )
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2


def test_signals_are_heard_before_the_first_step(tmp_path):
    """Lightning's own answer to SIGTERM has ranks wait for each other, in the midst of the sanity check."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        RunCheckpoint(tmp_path).on_sanity_check_start(SimpleNamespace(received_sigterm=False), None)
        handlers = {signal.getsignal(number) for number in STOP_SIGNALS}
        assert [type(handler.__self__) for handler in handlers] == [StopRequest]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_another_callback_saves(fit, tmp_path):
    assert fit(RunCheckpoint(tmp_path, every_n_steps=1, every_minutes=0, is_only_for_stops=True)) == []


def test_ranks_agree_on_what_one_of_them_wishes(tmp_path):
    def reduce(wishes, reduce_op):
        assert reduce_op == "sum"
        return wishes + torch.tensor([0, 1, 1])  # another rank's

    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce, root_device="cpu"))
    assert RunCheckpoint(tmp_path)._agree(trainer, False, False, True) == [False, True, True]


class At(Callback):
    """Does something at the beginning of a micro batch."""

    def __init__(self, batch, action):
        self.batch, self.action = batch, action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == self.batch:
            self.action()


@pytest.fixture
def slow_disk(monkeypatch):
    write = checkpoint_io._HashingFile.write
    monkeypatch.setattr(checkpoint_io._HashingFile, "write", lambda *words: (time.sleep(0.05), write(*words))[1])


@pytest.fixture
def full_disk(monkeypatch):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_io._HashingFile, "write", write)


def in_background():
    return {"plugins": [BackgroundCheckpointIO()]}


def test_steps_taken_while_a_checkpoint_is_written_are_not_in_it(fit, tmp_path, gate):
    saver = RunCheckpoint(tmp_path / "a", every_n_steps=2, num_kept=9)
    fit(saver, other=[At(3, gate.set)], **in_background())  # three steps are done, the second is yet to be written
    saver = RunCheckpoint(tmp_path / "b", every_n_steps=2, num_kept=9)
    fit(saver, other=[At(3, gate.set)], plugins=[DurableCheckpointIO()])
    for step in (2, 4, 6, 8):
        a, b = (tmp_path / name / "checkpoints" / f"step={step}.ckpt" for name in "ab")
        assert a.read_bytes() == b.read_bytes()


def test_the_last_checkpoint_stays_until_the_next_is_whole(fit, tmp_path, gate):
    seen = []

    def look():
        folder = tmp_path / "checkpoints"
        seen.append((sorted(path.name for path in folder.glob("step*.ckpt")), (folder / "last.ckpt").readlink().name))

    gate.set()
    writer = BackgroundCheckpointIO()
    others = [At(3, writer.wait), At(3, gate.clear), At(5, look), At(5, gate.set)]
    assert fit(RunCheckpoint(tmp_path, every_n_steps=2, num_kept=1), other=others, plugins=[writer]) == [8]
    assert seen == [(["step=2.ckpt"], "step=2.ckpt")]


@pytest.mark.parametrize("at_end", [False, True])
def test_a_stop_waits_for_the_file(fit, tmp_path, slow_disk, at_end):
    told = At(7 if at_end else 2, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        fit(RunCheckpoint(tmp_path), other=[told], **in_background())
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == f"step={8 if at_end else 3}.ckpt"


def test_an_exception_waits_for_the_file(fit, tmp_path, slow_disk):
    def fail():
        raise ValueError("of the user's")

    with pytest.raises(ValueError, match="of the user's"):
        fit(RunCheckpoint(tmp_path, every_n_steps=3), other=[At(3, fail)], **in_background())
    assert (tmp_path / "checkpoints" / "last.ckpt").resolve().name == "step=3.ckpt"


def test_a_failed_write_hides_no_other_exception(fit, tmp_path, full_disk):
    def fail():
        raise ValueError("of the user's")

    with pytest.warns(UserWarning, match="No space left"), pytest.raises(ValueError, match="of the user's"):
        fit(RunCheckpoint(tmp_path, every_n_steps=3), other=[At(3, fail)], **in_background())


def test_a_failed_write_ends_the_run_after_the_next_step(fit, tmp_path, full_disk):
    begun = []
    others = [At(3, lambda: time.sleep(0.5)), *(At(batch, partial(begun.append, batch)) for batch in range(8))]
    with pytest.raises(InputError, match=r"step=3.ckpt: cannot be written: No space left on device"):
        fit(RunCheckpoint(tmp_path, every_n_steps=3), other=others, **in_background())
    assert begun == [0, 1, 2, 3]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_write_that_fails_at_the_end_fails_the_run(fit, tmp_path, full_disk):
    with pytest.raises(InputError, match=r"step=8.ckpt: cannot be written: No space left on device"):
        fit(RunCheckpoint(tmp_path), **in_background())
