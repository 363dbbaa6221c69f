"""Guards: a loss that is no number reaches the weights, or a batch that teaches nothing goes by unseen."""

from types import SimpleNamespace

import pytest
import torch

from llava_pl.training.loss_watch import LossWatch
from llava_pl.types import InputError


def batch(num_supervised):
    return {"ids": ["a", "b"], "num_supervised": num_supervised}


def test_batches_that_supervise_nothing_are_counted():
    watch = LossWatch()
    watch.check(torch.tensor(1.0), batch(3), step=0)
    for number in (1, 2):
        with pytest.warns(UserWarning, match=rf"samples a, b supervises nothing \({number} such batches so far\)"):
            watch.check(torch.tensor(0.0), batch(0), step=0)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(loss):
    with pytest.raises(InputError, match=rf"train/loss is {loss} at step 7 on samples a, b; training stops before"):
        LossWatch().check(torch.tensor(loss), batch(3), step=7)


def test_a_loss_on_a_gpu_is_looked_at_with_the_next_one():
    """As `check` keeps it: a copy on the way to the host, and the event of its arrival."""
    watch, waited = LossWatch(), []
    watch._last = torch.tensor(float("nan")), SimpleNamespace(synchronize=lambda: waited.append(True)), "step 7 on a"
    with pytest.raises(InputError, match="train/loss is nan at step 7 on a; training stops before it can spoil a"):
        watch.check(torch.tensor(1.0), batch(3), step=8)
    assert waited == [True]


@pytest.mark.parametrize("hook", ["on_train_end", "on_save_checkpoint"])
def test_no_loss_is_left_behind(hook):
    watch = LossWatch()
    watch._last = torch.tensor(float("inf")), None, "step 9 on b"
    arguments = [None, None, {}][: 3 if hook == "on_save_checkpoint" else 2]
    with pytest.raises(InputError, match="train/loss is inf at step 9 on b"):
        getattr(watch, hook)(*arguments)
    getattr(watch, hook)(*arguments)


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    watch = LossWatch()
    watch.check(torch.tensor(float("nan"), device="cuda"), batch(3), step=7)
    with pytest.raises(InputError, match="train/loss is nan at step 7 on samples a, b; training stops before"):
        watch.look()
