"""Guards: a loss that is no number reaches the weights, or a batch that teaches nothing goes by unseen."""

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
