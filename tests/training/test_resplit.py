"""Guards: counters that are off by a micro batch after a change of the split, so that every later step is shifted.

Twenty-six samples in global batches of six: five steps, the last one of two samples.
"""

from copy import deepcopy
from types import SimpleNamespace

import pytest

from llava_pl import LlavaDataModule
from llava_pl.training.resplit import resplit


def trainer(ranks, num_micro_batches, batch_size, **settings):
    data = LlavaDataModule(
        image_folder=".", tokenizer="", image_processor="", num_image_tokens=4, batch_size=batch_size
    )
    data.train_records = range(26)
    defaults = {"limit_train_batches": 1.0, "datamodule": data}
    return SimpleNamespace(world_size=ranks, accumulate_grad_batches=num_micro_batches, **{**defaults, **settings})


def checkpoint(split, epoch, ready, completed, *, num_before=0, is_last_batch=False):
    """What Lightning saves, as far as it counts micro batches."""
    batch_size, num_micro_batches = split
    position = {
        "epoch": epoch, "num_done": ready, "batch_size": batch_size, "num_micro_batches": num_micro_batches,
    }  # fmt: skip
    current = {"ready": ready, "started": ready, "processed": ready, "completed": completed}
    total = {name: num_before + count for name, count in current.items()}
    progress = {"total": total, "current": current, "is_last_batch": is_last_batch}
    fit_loop = {"state_dict": {"combined_loader": [position]}, "epoch_loop.batch_progress": progress}
    return {"loops": {"fit_loop": fit_loop}, "global_step": 7}


@pytest.mark.parametrize(
    ("new", "num_done", "num_epoch_batches"),
    [((1, 1, 6), 2, 5), ((1, 6, 1), 12, 26), ((1, 2, 3), 4, 9), ((2, 3, 1), 6, 13)],
)
def test_within_an_epoch(new, num_done, num_epoch_batches):
    """The second one, when the second step was not yet counted as completed."""
    saved = checkpoint((2, 3), epoch=1, ready=6, completed=5, num_before=13)
    resplit(saved, trainer(*new))
    split = new[0] * new[2], new[1]
    assert saved == checkpoint(split, epoch=1, ready=num_done, completed=num_done - 1, num_before=num_epoch_batches)


@pytest.mark.parametrize(("new", "num_done"), [((1, 2, 3), 9), ((1, 6, 1), 26), ((2, 1, 3), 5), ((2, 3, 1), 13)])
def test_the_end_of_an_epoch_is_one(new, num_done):
    """Its last step is shorter: thirteen micro batches are four whole steps of three and one."""
    saved = checkpoint((2, 3), epoch=0, ready=13, completed=13, is_last_batch=True)
    resplit(saved, trainer(*new))
    split = new[0] * new[2], new[1]
    assert saved == checkpoint(split, epoch=0, ready=num_done, completed=num_done, is_last_batch=True)


def test_an_epoch_that_is_cut_short():
    saved = checkpoint((2, 3), epoch=1, ready=3, completed=2, num_before=6)
    resplit(saved, trainer(1, 2, 3, limit_train_batches=4))
    assert saved == checkpoint((3, 2), epoch=1, ready=2, completed=1, num_before=4)


def test_a_step_that_was_not_complete_is_begun_anew():
    saved = checkpoint((2, 3), epoch=0, ready=8, completed=8)
    resplit(saved, trainer(1, 1, 6))
    assert saved == checkpoint((6, 1), epoch=0, ready=2, completed=2)


@pytest.mark.parametrize("new", [(1, 3, 2), (1, 2, 2), (2, 3, 2)])
def test_the_same_split_and_another_global_batch_stay_as_they_are(new):
    saved = checkpoint((2, 3), epoch=0, ready=6, completed=5)
    before = deepcopy(saved)
    resplit(saved, trainer(*new))
    assert saved == before


@pytest.mark.parametrize("state", [{}, {"combined_loader": []}, {"combined_loader": [{"anything": 1}]}])
def test_another_loader_s_state_is_left_alone(state):
    saved = checkpoint((2, 3), epoch=0, ready=6, completed=5)
    saved["loops"]["fit_loop"]["state_dict"] = state
    before = deepcopy(saved)
    resplit(saved, trainer(1, 1, 6))
    assert saved == before


@pytest.mark.parametrize("data", [None, SimpleNamespace(count_train_batches=lambda world_size: 5)])
def test_another_data_module_is_left_alone(data):
    saved = checkpoint((2, 3), epoch=0, ready=6, completed=5)
    before = deepcopy(saved)
    resplit(saved, trainer(1, 1, 6, datamodule=data))
    assert saved == before
