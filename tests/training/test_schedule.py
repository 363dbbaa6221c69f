"""Guards: a schedule that ends too early or too late, because the steps of a run were counted wrongly."""

from types import SimpleNamespace

import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader

from llava_pl.training.schedule import count_optimizer_steps, is_step_complete
from llava_pl.types import InputError

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no.*")


class Data(LightningDataModule):
    """Seven batches an epoch."""

    def count_train_batches(self, world_size: int) -> int:
        assert world_size == 1
        return 7

    def train_dataloader(self):
        return DataLoader(torch.zeros(7, 32), batch_size=1)


class CountingModel(BoringModel):
    counted = None

    def configure_optimizers(self):
        self.counted = count_optimizer_steps(self.trainer)
        return super().configure_optimizers()

    def val_dataloader(self):
        return None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_epochs": 1}, 7),
        ({"max_epochs": 3}, 21),
        ({"max_epochs": 1, "accumulate_grad_batches": 2}, 4),
        ({"max_epochs": 3, "accumulate_grad_batches": 3}, 9),
        ({"max_epochs": 1, "accumulate_grad_batches": 16}, 1),
        ({"max_steps": 5}, 5),
        ({"max_steps": 5, "max_epochs": -1, "accumulate_grad_batches": 4}, 5),
        ({"max_steps": 5, "max_epochs": 1, "accumulate_grad_batches": 2}, 4),
        ({"max_steps": 3, "max_epochs": 1, "accumulate_grad_batches": 2}, 3),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
        ({"max_epochs": 2, "limit_train_batches": 100}, 14),
        ({"max_epochs": 2, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 4),
        ({"max_epochs": 2, "limit_train_batches": 1}, 2),
        ({"max_epochs": 2, "limit_train_batches": 1.0}, 14),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, 6),
        ({"max_epochs": 1, "overfit_batches": 2}, 2),
        ({"fast_dev_run": True}, 1),
        ({"fast_dev_run": 3}, 3),
    ],
)
def test_count_is_what_a_run_takes(tmp_path, settings, expected):
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, **settings,
    )  # fmt: skip
    model = CountingModel()
    trainer.fit(model, datamodule=Data())
    assert (model.counted, trainer.global_step) == (expected, expected)


def trainer_like(**settings):
    """What a trainer says about a run on four ranks."""
    defaults = {
        "max_steps": -1, "max_epochs": 1, "limit_train_batches": 1.0, "accumulate_grad_batches": 1, "world_size": 4,
        "datamodule": SimpleNamespace(count_train_batches=lambda world_size: 100 // world_size),
    }  # fmt: skip
    return SimpleNamespace(**{**defaults, **settings})


def test_ranks_share_the_batches():
    assert count_optimizer_steps(trainer_like()) == 25
    assert count_optimizer_steps(trainer_like(accumulate_grad_batches=2, max_epochs=2)) == 26


@pytest.mark.parametrize(
    "settings", [{"max_epochs": -1}, {"max_epochs": None}, {"datamodule": None}, {"datamodule": SimpleNamespace()}]
)
def test_a_run_without_an_end_is_refused(settings):
    with pytest.raises(InputError, match=r"needs the number of steps; set trainer.max_steps, or trainer.max_epochs"):
        count_optimizer_steps(trainer_like(**settings))
    assert count_optimizer_steps(trainer_like(**settings, max_steps=9)) == 9


def test_a_lightning_trainer_without_an_end_is_refused(tmp_path):
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, max_epochs=-1,
    )  # fmt: skip
    with pytest.raises(InputError, match="needs the number of steps"):
        trainer.fit(CountingModel(), datamodule=Data())


def test_a_run_has_at_least_one_step():
    assert count_optimizer_steps(trainer_like(limit_train_batches=0)) == 1


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_is_complete_with_its_last_micro_batch(tmp_path, accumulate):
    """Six micro batches and an incomplete step of one: Lightning completes it at the end of the epoch."""
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(is_step_complete(trainer))

    trainer = Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=accumulate, callbacks=[Watch()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(BoringModel(), DataLoader(RandomDataset(32, 7)))
    assert seen == {1: [True] * 7, 3: [False, False, True, False, False, True, True]}[accumulate]
