"""Guards: lengths and padding that are not those of the batches that training sees."""

import pytest

from llava_pl import LlavaDataModule
from llava_pl.planning.data_facts import DataFacts, find_excess, read_facts


@pytest.fixture
def make(mid_parts):
    def make(**more):
        return LlavaDataModule(
            **{
                "records": mid_parts / "records.json", "image_folder": mid_parts, "batch_size": 4, "num_workers": 0,
                "tokenizer": str(mid_parts / "decoder"), "image_processor": str(mid_parts / "encoder"),
                "num_image_tokens": 64,
            }
            | more
        )  # fmt: skip

    return make


def facts(data, **more):
    given = {"max_length": 2048, "num_image_tokens": 64, "num_ranks": 1, "num_micro_batches": 1}
    return read_facts(data, **given | more)


@pytest.mark.parametrize("settings", [{}, {"grouping": "length"}, {"is_packed": True}])
def test_known_data(make, settings):
    data = make(**settings)
    found = facts(data)
    batches = list(data.train_dataloader())
    lengths = sorted(data.train_data.num_tokens.tolist())
    assert (found.num_samples, found.unknown) == (16, None)
    assert (found.mean_length, found.longest) == (sum(lengths) / 16, lengths[-1])
    positions = sum(batch["input_ids"].numel() for batch in batches)
    assert found.padding == pytest.approx(1 - sum(lengths) / positions)
    assert found.batch_length == -(-max(batch["input_ids"].numel() for batch in batches) // 4)
    supervised = [batch["num_supervised"] for batch in batches]
    assert found.mean_supervised == sum(supervised) / 16
    assert found.batch_supervised * 4 >= max(supervised)


def test_records_that_are_not_here(make):
    data = make(records="nowhere.json")
    found = facts(data)
    assert found == DataFacts(None, 2048, 2048, 2048, 1984, 1984, 0.0, found.unknown)
    assert found.unknown.startswith("nowhere.json: cannot be read")
    told = facts(make(records="nowhere.json"), num_samples=1000, mean_length=164.0)
    assert (told.num_samples, told.mean_length, told.mean_supervised, told.batch_length) == (1000, 164, 100, 2048)


def test_a_budget_is_refused_as_by_fit(make):
    given = {"num_ranks": 1, "num_micro_batches": 1, "max_epochs": 1, "max_steps": -1}
    data = make(token_budget=100)
    facts(data)
    assert find_excess(data, **given).startswith("data.token_budget: expected at most 100 positions in a micro batch")
    data = make(token_budget=100_000)
    facts(data)
    assert find_excess(data, **given) is None
    assert find_excess(make(), **given) is None
