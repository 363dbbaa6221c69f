"""Guards: the shared vocabulary changes meaning under everybody's feet."""

import pickle

import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from llava_pl.types import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    ImageGrid,
    InputError,
    LossOutput,
    Question,
    RecordError,
)


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


def test_what_stands_beside_the_tensors_of_a_batch_survives_bf16_true():
    """Lightning walks through all of it to find floats, and refuses frozen dataclasses."""
    beside = {"questions": [Question("1", "Why?", ("a", "b"), 0)], "grids": [ImageGrid(1, 2, height=3, width=4)]}
    found = HalfPrecision("bf16-true").convert_input({**beside, "pixel_values": torch.ones(1)})
    assert found.pop("pixel_values").dtype == torch.bfloat16
    assert found == beside
    assert found["grids"][0].num_tiles == 3
