"""Guards: bytes that are counted twice, or never let go."""

import torch
from torch import nn

from llava_pl.planning.memory_tape import MemoryTape, Moment


def record(parameters, work):
    tape = MemoryTape(parameters)
    with tape:
        kept = work()
    tape.close()
    return tape, kept


def test_counts_storages_while_they_live():
    def work():
        first = torch.zeros(1000)
        second = first.view(10, 100).t()  # no storage of its own
        second = second + 1
        del first
        return second, torch.zeros(250)

    tape, _ = record([], work)
    assert tape.moments == [Moment(4000, 0), Moment(8000, 0), Moment(5000, 0)]
    assert tape.num_alive == 5000


def test_parameters_do_not_count_and_finished_gradients_count_apart():
    layer = nn.Linear(100, 50, bias=False)
    values = torch.ones(8, 100)
    tape, _ = record([layer.weight], lambda: layer(values).sum().backward())
    assert layer.weight.grad is not None
    assert tape.moments[0] == Moment(8 * 50 * 4, 0)
    before, after = tape.moments[-1], tape._bytes
    assert before.others >= 100 * 50 * 4  # the gradient, as it is made
    assert after["gradients"] == 100 * 50 * 4


def test_what_autograd_keeps_is_alive():
    values = torch.ones(100, requires_grad=True)

    def work():
        return (values * 2).exp().sum()

    tape, total = record([], work)
    # The input of exp is let go, its result is kept for the backward pass.
    assert tape.num_alive == 400 + 4
    del total
    assert tape.num_alive == 0
