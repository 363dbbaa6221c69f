"""Guards: two steps that drop out the same units, or one step that drops out others the second time."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from llava_pl.training.seeding import SeedSteps, step_seed


def test_seed_is_a_fixed_number():
    """A resumed run may be another version of Python on another machine."""
    assert step_seed(0, 0, 0, 0) == 41468250082997834
    assert step_seed(1, 2, 3, 4) == 54322444969949333


def test_every_place_has_a_seed_of_its_own():
    places = [(s, r, e, b) for s in range(3) for r in range(3) for e in range(3) for b in range(30)]
    assert len({step_seed(*place) for place in places}) == len(places)
    assert step_seed(1, 23, 4, 5) != step_seed(12, 3, 4, 5)


def draw(rank=0, epoch=0, batch_idx=0):
    SeedSteps(7).on_train_batch_start(SimpleNamespace(global_rank=rank, current_epoch=epoch), None, {}, batch_idx)
    return torch.rand(1).item(), random.random(), float(np.random.rand())


def test_generators_start_anew_in_each_micro_batch():
    first = draw()
    torch.rand(5)
    assert draw() == first
    for other in (draw(rank=1), draw(epoch=1), draw(batch_idx=1)):
        assert not set(other) & set(first)
