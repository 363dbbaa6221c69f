"""Guards: a rank that trains on other samples than its own, or in rows of another kind than asked for.

What a whole run reads is tested through the data modules that files make, in `test_datamodule.py`.
"""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from llava_pl.data.dataset import RecordDataset
from llava_pl.data.train_loader import make_train_loader, measure_samples
from llava_pl.data.training_data import GivenRecords
from llava_pl.types import ImageGrid, InputError, Record, Turn

# A caption of n letters makes n + 6 positions: BOS, four image tokens, the letters, a line break.
RECORDS = [
    Record(str(size), (Turn("human", "<image>"), Turn("gpt", "x" * size)), ("red.png",)) for size in (5, 1, 3, 2, 4)
]


@pytest.fixture
def load(encoder, tmp_path):
    Image.new("RGB", (16, 16), (255, 0, 0)).save(tmp_path / "red.png")

    def load(trainer=None, **options):
        settings = {"batch_size": 2, "seed": 0, "grouping": "none", "is_packed": False, "token_budget": None}
        data = GivenRecords(RECORDS, lambda: encoder)
        dataset = RecordDataset(RECORDS, encoder)
        return make_train_loader(dataset, data, **(settings | options), num_workers=0, trainer=trainer)

    return load


def trainer_of(rank, num_micro_batches=1):
    return SimpleNamespace(
        world_size=2,
        global_rank=rank,
        accumulate_grad_batches=num_micro_batches,
        num_training_batches=99,
        max_epochs=1,
        max_steps=-1,
    )


def test_ranks_share_the_samples_of_an_epoch(load):
    first, second = ([name for batch in load(trainer_of(rank)) for name in batch["ids"]] for rank in range(2))
    # Five on two ranks: the last rank repeats the first sample.
    assert sorted({*first, *second}) == ["1", "2", "3", "4", "5"]
    assert (len(first), len(second)) == (3, 3)
    assert second[-1] == first[0]


def test_without_a_trainer_there_is_one_rank_and_one_micro_batch_a_step(load):
    batches = list(load())
    assert [len(batch["ids"]) for batch in batches] == [2, 2, 1]
    assert all(batch["num_step_supervised"] == batch["num_supervised"] for batch in batches)


def test_micro_batches_of_a_step_are_asked_for_at_each_step(load):
    trainer = trainer_of(0, num_micro_batches=2)
    loader = load(trainer, batch_size=1)
    trainer.accumulate_grad_batches = 3
    batches = list(loader)
    assert {batch["num_step_supervised"] for batch in batches} == {sum(batch["num_supervised"] for batch in batches)}


def test_rows_are_padded_or_packed(load):
    assert [batch["input_ids"].shape for batch in load(batch_size=5)] == [(5, 11)]
    [row] = load(batch_size=5, is_packed=True)
    assert row["input_ids"].shape == (1, 7 + 8 + 9 + 10 + 11)
    assert sorted(row["sequence_lengths"]) == [7, 8, 9, 10, 11]


@pytest.mark.parametrize(("is_packed", "largest"), [(False, 55), (True, 45)])
def test_a_micro_batch_beyond_the_budget_is_refused(load, is_packed, largest):
    load(batch_size=5, is_packed=is_packed, token_budget=largest)
    with pytest.raises(InputError, match=f"found one of {largest} in epoch 0"):
        load(batch_size=5, is_packed=is_packed, token_budget=largest - 1)


def test_samples_are_measured_in_tokens_or_words(encoder):
    data = GivenRecords(RECORDS, lambda: encoder)
    assert measure_samples(data, "length") == measure_samples(data, "balanced") == [11, 7, 9, 8, 10]
    assert measure_samples(data, "modality_length") == data.num_words.tolist()


def test_every_tensor_of_a_batch_is_pinned(monkeypatch):
    """Torch walks through dictionaries; what it finds no tensor in, such as grids, it leaves as it is."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self + 1)
    grid = ImageGrid(1, 1, height=1, width=1)
    batch = {"ids": ["a"], "labels": torch.zeros(1, 2), "value_of_level": torch.zeros(3, 256), "grids": [grid]}
    found = pin_memory(batch)
    assert found["labels"].tolist() == [[1.0, 1.0]]
    assert found["value_of_level"].min() == 1
    assert (found["ids"], found["grids"]) == (["a"], [grid])
