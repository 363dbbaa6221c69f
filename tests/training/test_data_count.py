"""Guards: samples that are counted twice, for another source, or not at all, above all across ranks and resumes."""

import json
from types import SimpleNamespace

import pytest
import torch

from llava_pl.data.sampler import ResumableSampler
from llava_pl.data.training_data import GivenRecords
from llava_pl.training.data_count import DataCount
from llava_pl.types import InputError


class TwoSources(GivenRecords):
    """The places below ten, and those from there on."""

    labels = ("a", "b")

    def __init__(self, content):
        super().__init__((), None)
        self.content = content

    def count_sources(self, indices):
        return [sum(index < 10 for index in indices), sum(index >= 10 for index in indices)]


def trainer_of(world_size=1, content="c" * 32):
    """What the counter asks of a trainer; all ranks have counted the same."""
    strategy = SimpleNamespace(reduce=lambda counts, reduce_op: counts.mul_(world_size), root_device="cpu")
    return SimpleNamespace(
        world_size=world_size,
        strategy=strategy,
        datamodule=SimpleNamespace(train_data=TwoSources(content), grouping="balanced", seed=0),
        is_global_zero=True,
        state=SimpleNamespace(fn="fit"),
        train_dataloader=None,
    )


class Log(dict):
    def log(self, name, value, *, sync_dist, rank_zero_only=False):
        # Nobody adds up again what is the sum of all ranks: a progress bar would do so on the first rank alone.
        assert (sync_dist, rank_zero_only) == (True, name.startswith("data/"))
        self[name] = value


def batch(*indices, **skipped):
    return {"indices": list(indices), "skipped": [(int(key[1:]), reason) for key, reason in skipped.items()]}


def count(counter, trainer, *batches):
    """Return what is logged after an epoch of these batches."""
    log = Log()
    for each in batches:
        counter.on_train_batch_end(trainer, log, None, each, 0)
    counter.on_train_epoch_end(trainer, log)
    return log


@pytest.fixture
def counter(tmp_path):
    return DataCount(tmp_path)


@pytest.mark.filterwarnings("ignore:.*samples were left out so far")
@pytest.mark.parametrize("world_size", [1, 3])
def test_samples_are_counted_by_source_over_the_world(counter, world_size):
    trainer = trainer_of(world_size)
    counter.on_train_start(trainer, None)
    batches = [batch(0, 11, 12), {"indices": [1]}, batch(2, 13, i13="too_long"), {}]
    seen = {"data/seen/a": 3.0 * world_size, "data/seen/b": 2.0 * world_size}
    left_out = {"data/skipped/b/too_long": 1.0 * world_size}
    assert count(counter, trainer, *batches) == seen | left_out
    # The next epoch goes on counting.
    more = count(counter, trainer, batch(5, i5="picture_broken"))
    assert more == seen | left_out | {"data/skipped/a/picture_broken": 1.0 * world_size}


def test_what_is_left_out_is_said(counter):
    counter.on_train_start(trainer_of(), None)
    with pytest.warns(UserWarning, match="data/skipped/a/too_long: 2 samples were left out so far"):
        count(counter, trainer_of(), batch(0, 1, 2, i0="too_long", i1="too_long"))


def test_a_resumed_run_goes_on_counting(counter, tmp_path):
    trainer, checkpoint = trainer_of(2), {}
    counter.on_train_start(trainer, None)
    count(counter, trainer, batch(0, 11))
    counter.on_save_checkpoint(trainer, None, checkpoint)
    again = DataCount(tmp_path)
    again.on_load_checkpoint(trainer, None, checkpoint)
    again.on_train_start(trainer, None)
    assert count(again, trainer, batch(1)) == {"data/seen/a": 4.0, "data/seen/b": 2.0}


def test_the_order_is_written_down_at_the_first_batch_of_an_epoch(counter, tmp_path, monkeypatch):
    """In an epoch that is resumed midway, too, of which Lightning announces no start."""
    trainer, sampler = trainer_of(), ResumableSampler(range(5), num_replicas=1, rank=0)
    trainer.train_dataloader = SimpleNamespace(sampler=sampler)
    monkeypatch.setattr(TwoSources, "describe", lambda _: ["a"])
    for trainer.current_epoch, first_batch in ((3, 2), (4, 0)):
        sampler.set_epoch(trainer.current_epoch)
        for batch_idx in (first_batch, first_batch + 1):
            counter.on_train_batch_start(trainer, None, {}, batch_idx)
            assert json.loads((tmp_path / "data.json").read_text())["orders"][str(sampler.epoch)] == sampler.order_hash
    assert list(json.loads((tmp_path / "data.json").read_text())["orders"]) == ["3", "4"]


@pytest.mark.parametrize(("content", "is_refused"), [("c" * 32, False), ("d" * 32, True), (None, False)])
def test_other_data_is_refused(counter, content, is_refused):
    checkpoint = {}
    counter.on_train_start(trainer_of(), None)
    counter.on_save_checkpoint(trainer_of(), None, checkpoint)
    if not is_refused:
        counter.on_load_checkpoint(trainer_of(content=content), None, checkpoint)
        return
    with pytest.raises(InputError) as caught:
        counter.on_load_checkpoint(trainer_of(content=content), None, checkpoint)
    assert str(caught.value) == (
        "ckpt_path: the run went through other training data (expected content cccccccc, found dddddddd); resume with "
        "the same records, repeats and quarantine, or start anew with --model.init_from"
    )


def test_another_order_is_refused(counter):
    checkpoint, trainer = {}, trainer_of()
    counter.on_train_start(trainer, None)
    counter.on_save_checkpoint(trainer, None, checkpoint)
    trainer.datamodule.grouping = "none"
    counter.on_load_checkpoint(trainer, None, checkpoint)
    trainer.datamodule.seed = 1
    with pytest.raises(InputError) as caught:
        counter.on_load_checkpoint(trainer, None, checkpoint)
    assert str(caught.value) == (
        "ckpt_path: the run took its samples in another order (expected shuffled, seed 0, found shuffled, seed 1); "
        "resume with the same data.seed and data.grouping, or start anew with --model.init_from"
    )


def test_other_data_is_no_matter_in_evaluation(counter):
    checkpoint = {}
    counter.on_train_start(trainer_of(), None)
    counter.on_save_checkpoint(trainer_of(), None, checkpoint)
    trainer = trainer_of(content="d" * 32)
    trainer.state.fn = "validate"
    counter.on_load_checkpoint(trainer, None, checkpoint)


@pytest.mark.filterwarnings("ignore:.*samples were left out")
def test_each_validation_counts_for_itself(counter):
    for _ in range(2):
        log = Log()
        counter.on_validation_epoch_start(trainer_of(2), log)
        counter.on_validation_batch_end(trainer_of(2), log, None, {"skipped": [(None, "too_long")]}, 0)
        counter.on_validation_batch_end(trainer_of(2), log, None, {}, 0)
        counter.on_validation_epoch_end(trainer_of(2), log)
        assert log == {"val/skipped/too_long": 2.0}


def test_nothing_is_logged_where_nothing_was_left_out(counter, recwarn):
    log = Log()
    counter.on_validation_epoch_start(trainer_of(), log)
    counter.on_validation_batch_end(trainer_of(), log, None, {}, 0)
    counter.on_validation_epoch_end(trainer_of(), log)
    assert log == {}
    assert not list(recwarn)


def test_the_end_shows_the_whole_run(counter, capsys):
    counter.on_train_start(trainer_of(), None)
    counter.on_train_batch_end(trainer_of(), None, None, batch(*range(9), 11, 12, i12="picture_missing"), 0)
    counter.on_train_end(trainer_of(), None)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["\u2502", "a", "\u2502", "9", "\u2502", "0", "\u2502"] in lines
    assert ["\u2502", "b", "\u2502", "1", "\u2502", "1", "\u2502"] in lines


def test_a_disk_that_is_away_ends_the_run(counter):
    counter.on_train_start(trainer_of(), None)

    def see(*indices, **skipped):
        counter.on_train_batch_end(trainer_of(), None, None, batch(*indices, **skipped), 0)

    for _ in range(2):
        for _ in range(49):
            see(1, 2, i1="picture_missing", i2="picture_broken")
        see(1, 2, 3, i1="picture_missing", i2="too_long")  # the last of them is read
    for _ in range(49):
        see(1, 2, i1="picture_missing", i2="picture_broken")
    with pytest.raises(InputError, match="expected a picture that can be read, found none among the last 100 samples"):
        see(1, 2, i1="picture_missing", i2="picture_broken")


def test_counts_are_whole_numbers(counter):
    checkpoint = {}
    counter.on_train_start(trainer_of(), None)
    counter.on_train_batch_end(trainer_of(), None, None, batch(0), 0)
    counter.on_save_checkpoint(trainer_of(), None, checkpoint)
    assert checkpoint["llava_pl_data_count"]["counts"] == [[1, 0, 0, 0], [0, 0, 0, 0]]
    assert torch.tensor(checkpoint["llava_pl_data_count"]["counts"]).dtype == torch.int64
