"""Guards: a speed that counts the wrong tokens or seconds, or a use of the device that counts what nobody needs."""

import csv
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from llava_pl.data import loader as loader_module
from llava_pl.data.loader import StepLoader
from llava_pl.models.llava import LlavaModel
from llava_pl.training import throughput
from llava_pl.training.throughput import Throughput
from llava_pl.types import InputError

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no.*")

NEEDED = {"num_tiles": 1000, "num_positions": 10, "num_pairs": 1, "num_supervised": 100}


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Model(LlavaModel):
    """In the place of a model, whose operations are `NEEDED`."""

    def __init__(self):
        nn.Module.__init__(self)
        self.layer = nn.Linear(1, 1)


class Module(LightningModule):
    """A training step takes two seconds, a validation step a thousand."""

    def __init__(self, clock):
        super().__init__()
        self.model = Model()
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 2
        return self.model.layer(torch.ones(1)).sum()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 1000

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_batch(n):
    """Return one of 10, 20, ... useful tokens, 40 positions and 0, 1, ... pictures, of two samples."""
    return {
        "ids": ["a", "b"], "num_tokens": 10 * (n + 1), "num_pairs": 7, "num_supervised": n, "input_ids":
        torch.zeros(2, 20), "pixel_values": torch.empty(n, 3, 2, 2),
    }  # fmt: skip


class Batches(torch.utils.data.Dataset):
    """Each takes half a second."""

    def __init__(self, clock):
        self.clock = clock

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.clock.now += 0.5
        return make_batch(index)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    monkeypatch.setattr(loader_module, "time", clock)
    monkeypatch.setattr(throughput, "needed_operations", lambda model, *, encodes: NEEDED)
    return clock


def run(tmp_path, clock, *, accumulate=1, interval=1, validates=False, peak=None, loader=None):
    """Return the rows that are logged over eight batches, their columns in order of the alphabet."""
    loader = loader or StepLoader(Batches(clock), batch_size=None, count_micro_batches=lambda: accumulate)
    val_loader = torch.utils.data.DataLoader(Batches(clock), batch_size=None) if validates else None
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=accumulate, log_every_n_steps=interval,
        logger=CSVLogger(tmp_path, name="", version=""), callbacks=[Throughput(peak)], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=2 * validates, val_check_interval=4,
    )  # fmt: skip
    trainer.fit(Module(clock), loader, val_loader)
    if not (tmp_path / "metrics.csv").exists():
        return []
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("perf/tokens_per_s")]
    return [{k.removeprefix("perf/"): float(v) for k, v in row.items() if v and k.startswith("perf/")} for row in rows]


@pytest.mark.parametrize("validates", [False, True])
def test_every_step(tmp_path, clock, validates):
    """Validation before the run and within it is no training time."""
    assert run(tmp_path, clock, validates=validates) == [
        {
            "tokens_per_s": pytest.approx(4.0 * (n + 1)), "positions_per_s": 16.0, "samples_per_s": pytest.approx(0.8),
            "images_per_s": pytest.approx(n / 2.5), "padding": pytest.approx(1 - (n + 1) / 4),
            "data_wait": pytest.approx(0.2),
        }
        for n in range(8)
    ]  # fmt: skip


def test_steps_of_several_micro_batches(tmp_path, clock):
    # Tokens 10 + 20, 30 + 40, ... and pictures 0 + 1, 2 + 3, ... in five seconds, one of them for the loader.
    rows = run(tmp_path, clock, accumulate=2)
    assert [row["tokens_per_s"] for row in rows] == [6.0, 14.0, 22.0, 30.0]
    assert [row["images_per_s"] for row in rows] == pytest.approx([0.2, 1.0, 1.8, 2.6])
    assert [row["data_wait"] for row in rows] == pytest.approx([0.2] * 4)


def test_an_interval_with_a_validation_in_it(tmp_path, clock):
    # 10 + 20 + ... + 80 tokens in twenty seconds, and in between a validation.
    assert run(tmp_path, clock, interval=8, validates=True)[0]["tokens_per_s"] == 18.0


def test_use_of_the_device(tmp_path, clock):
    """Of real lengths, pictures and supervised rows; positions of padding need nothing."""
    rows = run(tmp_path, clock, interval=4, peak=1e-9)  # a thousand operations a second
    # Pictures 0 + 1 + 2 + 3, tokens 10 + 20 + 30 + 40, 4 * 7 pairs, 0 + 1 + 2 + 3 supervised; then 4 to 7, 50 to 80.
    needed = [6000 + 1000 + 28 + 600, 22000 + 2600 + 28 + 2200]
    assert [row["mfu"] for row in rows] == pytest.approx([each / 10 / 1000 for each in needed])


def test_a_run_that_logs_nothing(tmp_path, clock):
    assert run(tmp_path, clock, interval=0) == []


def test_a_loader_that_does_not_tell_of_its_wait(tmp_path, clock):
    loader = torch.utils.data.DataLoader(Batches(clock), batch_size=None)
    rows = run(tmp_path, clock, loader=loader)
    assert [row["tokens_per_s"] for row in rows] == [4.0 * (n + 1) for n in range(8)]
    assert "data_wait" not in rows[0]


def test_of_the_whole_world(clock):
    """The sums of four ranks alike; a sample that was left out is none, a tiled picture is one."""
    logged, callback = {}, Throughput(1e-9)
    trainer = SimpleNamespace(
        world_size=4, global_step=1, log_every_n_steps=1, train_dataloader=SimpleNamespace(waited_seconds=7.0),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: False)),
        strategy=SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda sums, reduce_op: 4 * sums),
    )  # fmt: skip
    module = SimpleNamespace(
        log_dict=lambda values, **_: logged.update(values), device=torch.device("cpu"), model=Model()
    )
    callback.on_train_start(trainer, module)
    clock.now += 2
    trainer.train_dataloader.waited_seconds += 1
    tiles = {"grids": ["one"], "skipped": [(3, "picture_missing")]}
    callback.on_train_batch_end(trainer, module, None, make_batch(2) | tiles, 0)
    assert logged == {
        "perf/tokens_per_s": 60.0, "perf/positions_per_s": 80.0, "perf/samples_per_s": 2.0, "perf/images_per_s": 2.0,
        "perf/padding": 0.25, "perf/data_wait": 0.5, "perf/mfu": pytest.approx((2000 + 300 + 7 + 200) / 2 / 1000),
    }  # fmt: skip


def test_pictures_that_were_encoded_before_are_pictures():
    batch = make_batch(2) | {"pixel_values": torch.empty(0, 3, 2, 2), "patch_features": torch.empty(3, 4, 8)}
    assert Throughput()._count(batch)["images"] == 3


@pytest.mark.parametrize(
    ("peak", "said"), [(None, "left out, --throughput.peak_tflops"), (312.0, "against 312 * 10^12")]
)
def test_what_it_is_measured_against_is_said(clock, monkeypatch, peak, said):
    lines = []
    monkeypatch.setattr(throughput, "rank_zero_info", lines.append)
    module = SimpleNamespace(device=torch.device("cpu"), model=Model())
    Throughput(peak).on_train_start(SimpleNamespace(train_dataloader=None), module)
    assert len(lines) == 1
    assert said in lines[0]


def test_a_peak_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"throughput\.peak_tflops: expected a number above 0, found 0"):
        Throughput(0.0)
