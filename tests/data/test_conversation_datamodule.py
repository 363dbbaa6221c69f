"""Guards: a data module that takes settings which contradict each other, or trains on other records than it is given.

What its loaders do is tested through the data modules that files make, in `test_datamodule.py`.
"""

from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from llava_pl.data.anyres import Tiling, default_pinpoints
from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.types import InputError, Record, Turn


def make(tiny_parts, tmp_path, **options):
    settings = {
        "tokenizer": str(tiny_parts / "decoder"), "image_processor": str(tiny_parts / "encoder"), "num_image_tokens": 4,
        "image_folder": tmp_path, "num_workers": 0, "batch_size": 2,
    }  # fmt: skip
    return ConversationDataModule(**(settings | options))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"batch_size": 0}, "data.batch_size: expected at least 1, found 0"),
        ({"num_workers": -1}, "data.num_workers: expected at least 0, found -1"),
        ({"eval_batch_size": -2}, "data.eval_batch_size: expected at least 1, found -2"),
        ({"eval_batch_size": 0}, "data.eval_batch_size: expected at least 1, found 0"),
        ({"token_budget": 0}, "data.token_budget: expected at least 1, found 0"),
        ({"bad_records": "quarantine"}, "data.bad_records: found quarantine with data.quarantine None; expected "),
        ({"quarantine": "bad.json"}, "data.bad_records: found error with data.quarantine bad.json; expected "),
        ({"grouping": "size"}, "data.grouping: expected one of "),
        ({"grid_pinpoints": [(16, 32)]}, "data.grid_pinpoints: found 'pad' as data.image_aspect; expected 'anyres'"),
        ({"image_aspect": "anyres", "grid_pinpoints": []}, "grid_pinpoints: expected pairs of width and height, each "),
        ({"image_aspect": "anyres", "grid_pinpoints": [(16, 20)]}, "grid_pinpoints: expected pairs of width and "),
        ({"image_aspect": "anyres", "num_image_tokens": 5}, "image_aspect anyres: expected a square number of image "),
    ],
)
def test_settings_that_cannot_be(tiny_parts, tmp_path, options, found):
    with pytest.raises(InputError) as caught:
        make(tiny_parts, tmp_path, **options)
    assert str(caught.value).startswith(found)


def test_records_are_those_that_it_is_given(tiny_parts, tmp_path):
    data = make(tiny_parts, tmp_path)
    assert data.open_entries() == {"records": ()}
    data.train_records = [Record(name, (Turn("human", "a"), Turn("gpt", "b"))) for name in "xyz"]
    assert data.open_entries() == {"records": data.train_records}
    assert data.count_train_batches(1) == 2
    assert sorted(name for batch in data.train_dataloader() for name in batch["ids"]) == ["x", "y", "z"]


@pytest.mark.parametrize(("fn", "stage"), [(None, "fit"), (TrainerFn.FITTING, "fit"), (TrainerFn.TESTING, "test")])
def test_what_a_run_needs_is_prepared_before_ranks_wait_for_each_other(tiny_parts, tmp_path, monkeypatch, fn, stage):
    data = make(tiny_parts, tmp_path)
    if fn is not None:
        data.trainer = SimpleNamespace(state=SimpleNamespace(fn=fn))
    stages = []
    monkeypatch.setattr(data, "setup", stages.append)
    data.prepare_data()
    assert stages == [stage]


def test_without_records_there_is_nothing_to_train_on(tiny_parts, tmp_path):
    with pytest.raises(InputError, match="no records to train on"):
        make(tiny_parts, tmp_path).train_dataloader()


@pytest.mark.parametrize("pinpoints", [None, [(32, 16), (16, 16)]])
def test_tiles_have_the_size_that_the_encoder_reads(tiny_parts, tmp_path, pinpoints):
    encoder = make(tiny_parts, tmp_path, image_aspect="anyres", grid_pinpoints=pinpoints).make_encoder()
    assert encoder.tiling == Tiling(16, 4, default_pinpoints(16) if pinpoints is None else pinpoints)
    assert encoder.image_transform.aspect == "square"
    assert make(tiny_parts, tmp_path).make_encoder().tiling is None
