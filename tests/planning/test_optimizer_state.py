"""Guards: optimizers that keep more or less than is planned."""

import pytest
import torch

from llava_pl.export.build import build_model
from llava_pl.planning.optimizer_state import measure_optimizer
from llava_pl.planning.weights import build_run_model
from llava_pl.training.module import LlavaModule
from llava_pl.training.optim import OptimConfig, build_optimizer
from llava_pl.training.stages import apply_plan
from llava_pl.types import InputError


@pytest.fixture
def module(tiny_model):
    return LlavaModule(**tiny_model | {"optim": OptimConfig(learning_rate=1e-3)})


@pytest.mark.parametrize(
    ("optimizer", "options", "bytes_per_weight"),
    [
        ("torch.optim.AdamW", {}, 8),
        ("torch.optim.AdamW", {"amsgrad": True}, 12),
        ("torch.optim.SGD", {}, 0),
        ("torch.optim.SGD", {"momentum": 0.9}, 4),
    ],
)
def test_states_are_those_of_a_real_step(module, optimizer, options, bytes_per_weight):
    config = OptimConfig(learning_rate=1e-3, optimizer=optimizer, options=options)
    found = measure_optimizer(build_run_model(module), config)
    model = build_model(module.model_config)
    apply_plan(model, module.plan)
    real = build_optimizer(model, config)
    learners = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learners:
        parameter.grad = torch.zeros_like(parameter)
    real.step()
    kept = [value for state in real.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert found.states == sum(value.nbytes for value in kept)
    scalars = 4 * len(learners) if "Adam" in optimizer else 0  # how many steps, for each parameter
    assert found.states == bytes_per_weight * sum(parameter.numel() for parameter in learners) + scalars


def test_eight_bits(published):
    from llava_pl.planning.optimizer_state import _count_quantized

    large, small = torch.nn.Parameter(torch.empty(64, 256)), torch.nn.Parameter(torch.empty(16))
    name = "bitsandbytes.optim.PagedAdamW8bit"
    assert _count_quantized(large, name) == 2 * (64 * 256 + 4 * 64)
    assert _count_quantized(small, name) == 2 * 4 * 16
    assert _count_quantized(large, "bitsandbytes.optim.Lion8bit") == 64 * 256 + 4 * 64


def test_refusals_are_those_of_fit(module):
    with pytest.raises(InputError, match=r"model.optim.optimizer: expected the full name of a class"):
        measure_optimizer(build_run_model(module), OptimConfig(learning_rate=1e-3, optimizer="AdamW"))
