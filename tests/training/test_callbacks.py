"""Guards: a table that says something else than what happens, or a speed that counts the wrong tokens or seconds."""

import csv
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from llava_pl.models.llava import LlavaModel
from llava_pl.training import callbacks
from llava_pl.training.callbacks import PlanTable, ScoreTable, Throughput
from llava_pl.training.optim import OptimConfig, PartOptim
from llava_pl.training.stages import PLANS, apply_plan

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no.*")


def rows_of(printed: str, mark: str = "\u2502") -> list[list[str]]:
    """Return the cells of a table's body, or with the mark of its head those."""
    lines = [line for line in printed.splitlines() if line.startswith(mark)]
    return [[cell.strip() for cell in line.strip(mark).split(mark)] for line in lines]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.head = nn.Linear(10, 10)


def show_plan(stage, rank=0, **optim):
    model = LlavaModel(nn.Linear(3, 5), nn.Linear(999, 2), Decoder().to(torch.bfloat16))
    apply_plan(model, PLANS[stage])
    module = SimpleNamespace(stage=stage, model=model, optim_config=OptimConfig(learning_rate=1e-3, **optim))
    PlanTable().on_train_start(SimpleNamespace(is_global_zero=rank == 0), module)


def test_plan_of_align(capsys):
    show_plan("align")
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].strip() == "stage align"
    assert rows_of(printed) == [
        ["vision_encoder", "0", "20", "float32", "frozen"],
        ["projector", "2,000", "2,000", "float32", "0.001"],
        ["decoder", "0", "110", "bfloat16", "frozen"],
        ["embeddings", "0", "10", "bfloat16", "frozen"],
    ]


@pytest.mark.parametrize(("rate", "shown"), [(None, "0.001"), (2e-5, "2e-05"), (0.0, "0")])
def test_plan_of_finetune_shows_the_projector_s_own_rate(capsys, rate, shown):
    show_plan("finetune", projector=PartOptim(learning_rate=rate))
    assert rows_of(capsys.readouterr().out) == [
        ["vision_encoder", "0", "20", "float32", "frozen"],
        ["projector", "2,000", "2,000", "float32", shown],
        ["decoder", "110", "110", "bfloat16", "0.001"],
        ["embeddings", "10", "10", "bfloat16", "0.001"],
    ]


def test_plan_is_printed_once(capsys):
    show_plan("align", rank=1)
    assert capsys.readouterr().out == ""


def trainer_with(metrics, fn="validate", rank=0):
    metrics = {name: torch.tensor(value) for name, value in metrics.items()}
    return SimpleNamespace(callback_metrics=metrics, is_global_zero=rank == 0, state=SimpleNamespace(fn=fn))


SCORES = {
    "val/scienceqa/accuracy": 62.25, "val/scienceqa/accuracy/IMG": 50.0, "val/scienceqa/accuracy/NAT": 100.0,
    "val/scienceqa/count": 4241.0, "val/scienceqa/unparsed": 7.0,
    "val/scienceqa/grey_image/accuracy": 40.0, "val/scienceqa/grey_image/accuracy/IMG": 33.333,
    "val/scienceqa/grey_image/count": 4241.0, "val/scienceqa/grey_image/unparsed": 0.0,
    "val/scienceqa/checkpoint_step": 1200.0, "val/loss": 0.5,
}  # fmt: skip


def test_scores_of_two_image_sources(capsys):
    ScoreTable().on_validation_end(trainer_with(SCORES), None)
    printed = capsys.readouterr().out
    assert "ScienceQA accuracy, step 1200, in percent" in " ".join(printed.split())
    assert rows_of(printed, mark="\u2503") == [["questions", "own image", "grey image"]]
    assert rows_of(printed) == [
        ["all", "62.25", "40.00"],
        ["IMG", "50.00", "33.33"],
        ["NAT", "100.00", "-"],
        ["count", "4241", "4241"],
        ["unparsed", "7", "0"],
    ]


def test_scores_of_a_test(capsys):
    metrics = {name.replace("val/", "test/"): value for name, value in SCORES.items()}
    ScoreTable().on_test_end(trainer_with(metrics, fn="test"), None)
    assert rows_of(capsys.readouterr().out)[0] == ["all", "62.25", "40.00"]


@pytest.mark.parametrize(
    ("metrics", "fn", "rank"),
    [(SCORES, "fit", 0), (SCORES, "validate", 1), ({"val/loss": 0.5}, "fit", 0), ({}, "validate", 0)],
)
def test_no_scores_to_show(capsys, metrics, fn, rank):
    ScoreTable().on_validation_end(trainer_with(metrics, fn, rank), None)
    assert capsys.readouterr().out == ""


def test_loss_of_records_is_shown(capsys):
    ScoreTable().on_validation_end(trainer_with({"val/loss": 0.5}, "validate", 0), None)
    assert capsys.readouterr().out == "val/loss 0.5000 per supervised token\n"


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Module(LightningModule):
    """A training step takes two seconds, a validation step a thousand."""

    def __init__(self, clock):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 2
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch, batch_idx):
        self.clock.now += 1000

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run_throughput(tmp_path, monkeypatch, *, accumulate=1, interval=1, validates=False):
    """Return what is logged over eight batches of 10, 20, ... tokens and 0, 1, ... pictures."""
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    batches = [{"num_tokens": 10 * (n + 1), "pixel_values": torch.empty(n, 3, 2, 2)} for n in range(8)]
    loader = DataLoader(batches, batch_size=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=accumulate, log_every_n_steps=interval,
        logger=CSVLogger(tmp_path, name="", version=""), callbacks=[Throughput()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=2 * validates, val_check_interval=4,
    )  # fmt: skip
    trainer.fit(Module(clock), loader, loader if validates else None)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("perf/tokens_per_s")]
    return [(float(row["perf/tokens_per_s"]), float(row["perf/images_per_s"])) for row in rows]


@pytest.mark.parametrize("validates", [False, True])
def test_speed_of_every_step(tmp_path, monkeypatch, validates):
    """Validation before the run and within it is no training time."""
    assert run_throughput(tmp_path, monkeypatch, validates=validates) == [(5.0 * (n + 1), n / 2) for n in range(8)]


def test_speed_of_steps_of_several_micro_batches(tmp_path, monkeypatch):
    # Tokens 10 + 20, 30 + 40, ... and pictures 0 + 1, 2 + 3, ... in four seconds.
    expected = [(7.5, 0.25), (17.5, 1.25), (27.5, 2.25), (37.5, 3.25)]
    assert run_throughput(tmp_path, monkeypatch, accumulate=2) == expected


def test_speed_of_an_interval(tmp_path, monkeypatch):
    # 10 + 20 + 30 + 40 tokens and 0 + 1 + 2 + 3 pictures in eight seconds, then the rest.
    assert run_throughput(tmp_path, monkeypatch, interval=4) == [(12.5, 0.75), (32.5, 2.75)]


def test_speed_is_that_of_the_whole_world(tmp_path, monkeypatch):
    clock, logged = Clock(), {}
    monkeypatch.setattr(callbacks, "time", clock)
    trainer = SimpleNamespace(
        world_size=4, global_step=1, log_every_n_steps=1,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: False)),
    )  # fmt: skip
    module = SimpleNamespace(log_dict=lambda values, **_: logged.update(values))
    throughput = Throughput()
    throughput.on_train_start(trainer, module)
    clock.now += 2
    batch = {"num_tokens": 10, "pixel_values": torch.empty(3, 3, 2, 2)}
    throughput.on_train_batch_end(trainer, module, None, batch, 0)
    assert logged == {"perf/tokens_per_s": 20.0, "perf/images_per_s": 6.0}
