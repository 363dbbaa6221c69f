"""Guards: the shared vocabulary changes meaning under everybody's feet."""

import pickle

import torch

from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, InputError, LossOutput, RecordError


def test_constants_are_those_of_transformers_and_the_original():
    assert (IGNORE_INDEX, IMAGE_TOKEN_INDEX) == (-100, -200)


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


def test_mean_loss():
    assert LossOutput(torch.tensor(6.0), torch.tensor(4)).mean.item() == 1.5


def test_mean_loss_of_nothing_is_a_differentiable_zero():
    total = torch.zeros((), requires_grad=True)
    mean = LossOutput(total, torch.tensor(0)).mean
    mean.backward()
    assert (mean.item(), total.grad.item()) == (0.0, 1.0)


def test_a_record_error_keeps_its_reason_between_processes():
    error = pickle.loads(pickle.dumps(RecordError("record 'a': why", "roles")))
    assert (str(error), error.reason) == ("record 'a': why", "roles")
    assert RecordError("why").reason == "invalid"
    assert isinstance(error, InputError)
