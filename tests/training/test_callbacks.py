"""Guards: a table that says something else than what happens."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llava_pl.models.llava import LlavaModel
from llava_pl.training.callbacks import LossLine, PlanTable
from llava_pl.training.optim import OptimConfig, PartOptim
from llava_pl.training.stages import PLANS, apply_plan


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


@pytest.mark.parametrize(
    ("metrics", "fn", "rank"),
    [({"val/loss": 0.5}, "validate", 1), ({"val/loss": 0.5}, "fit", 0), ({}, "validate", 0)],
)
def test_no_loss_to_show(capsys, metrics, fn, rank):
    LossLine().on_validation_end(trainer_with(metrics, fn, rank), None)
    assert capsys.readouterr().out == ""


def test_loss_of_records_is_shown(capsys):
    LossLine().on_validation_end(trainer_with({"val/loss": 0.5}, "validate", 0), None)
    assert capsys.readouterr().out == "val/loss 0.5000 per supervised token\n"
