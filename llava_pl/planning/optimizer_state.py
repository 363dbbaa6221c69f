"""The optimizer's class to what it keeps for each weight, and needs while it updates.

In: a model without weights and the optimizer's settings. Out: bytes. The class itself takes two steps on tensors of
torch's ``FakeTensorMode``; those of bitsandbytes, which have no such thing, are counted from its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_pl.models.llava import LlavaModel
from llava_pl.planning.dry_run import AnsweringTape, fake_parameters
from llava_pl.training.optim import OptimConfig, build_optimizer

LEAST_QUANTIZED = 4096
"""bitsandbytes keeps the state of smaller parameters in float32 (`min_8bit_size`)."""

BLOCK = 256
"""Numbers of 8 bits that share a scale of four bytes, in the state of its optimizers."""


@dataclass(frozen=True, slots=True)
class OptimizerBytes:
    """What an optimizer takes beside weights and gradients.

    Args:
        states: Kept from step to step.
        update: While weights are updated, one after the other as on a CPU; fused on a GPU it is nothing.
    """

    states: int
    update: int


def measure_optimizer(model: LlavaModel, config: OptimConfig) -> OptimizerBytes:
    """Return what the optimizer of a run takes for all trained weights together.

    Args:
        model: On the meta device or fake.
        config: The class and its settings.

    Raises:
        InputError: There is no such class, or it does not take the settings.
    """
    if config.optimizer.startswith("bitsandbytes."):
        return OptimizerBytes(
            sum(_count_quantized(p, config.optimizer) for p in model.parameters() if p.requires_grad), 0
        )
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake_parameters(model)
        learners = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = build_optimizer(model, config, allows_fused=False)
        for parameter in learners:
            parameter.grad = torch.empty_like(parameter)
        tape = AnsweringTape(learners, [parameter.grad for parameter in learners if parameter.grad is not None])
        try:
            with tape:
                optimizer.step()
                first = len(tape.moments)
                states = tape.num_alive
                optimizer.step()
        finally:
            tape.close()
            model.zero_grad(set_to_none=True)
        peak = max((moment.others for moment in tape.moments[first:]), default=states)
    return OptimizerBytes(states, peak - states)


def _count_quantized(parameter: nn.Parameter, optimizer: str) -> int:
    """Return the bytes of the state of a weight: AdamW has two averages, others of these classes one."""
    num_averages = 2 if "Adam" in optimizer else 1
    if "8bit" not in optimizer or parameter.numel() < LEAST_QUANTIZED:
        return 4 * num_averages * parameter.numel()
    return num_averages * (parameter.numel() + 4 * -(-parameter.numel() // BLOCK))
