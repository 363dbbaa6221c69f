"""Optimizer groups and learning-rate schedule, as the original builds them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, cos, pi
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llava_pl.types import InputError


@dataclass(frozen=True)
class OptimConfig:
    """How weights are updated.

    Args:
        learning_rate: Peak learning rate.
        projector_learning_rate: Peak learning rate of the projector, where it differs.
        weight_decay: Of matrices and embeddings; norms and biases never decay.
        betas: Decay of AdamW's averages.
        eps: Added to AdamW's denominator.
        warmup_share: Share of all steps in which the rate rises from zero.
    """

    learning_rate: float
    projector_learning_rate: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_share: float = 0.03

    def __post_init__(self) -> None:
        """Refuse values that AdamW or the schedule cannot work with."""
        rates = [self.learning_rate, self.weight_decay, self.eps, self.projector_learning_rate or 0.0]
        if min(rates) < 0 or not all(0 <= beta < 1 for beta in self.betas) or not 0 <= self.warmup_share <= 1:
            raise InputError(
                "model.optim: expected rates, decay and eps of at least 0, betas in [0, 1), warmup_share in [0, 1], "
                f"found {self}"
            )


def build_parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups of trainable parameters: decay or not, and with a rate of its own the projector's apart.

    LLaVA: parameters of norm layers and biases do not decay, everything else does (CLIP's class embedding, a vector,
    too). Unlike LLaVA, the newline embedding of tiled pictures has the projector's rate. Empty groups are left out.
    Each group has a `name` for the log.
    """
    no_decay = set(_norm_parameters(model))
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = name not in no_decay and "bias" not in name
        is_apart = config.projector_learning_rate is not None and name.startswith(("projector.", "image_newline"))
        group_name = ("projector_" if is_apart else "") + ("decay" if decays else "no_decay")
        group = groups.setdefault(
            group_name,
            {
                "name": group_name,
                "params": [],
                "lr": config.projector_learning_rate if is_apart else config.learning_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    order = ("decay", "no_decay", "projector_decay", "projector_no_decay")
    return [groups[name] for name in order if name in groups]


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """Return AdamW over the trainable parameters."""
    return AdamW(build_parameter_groups(model, config), lr=config.learning_rate, betas=config.betas, eps=config.eps)


def build_schedule(optimizer: Optimizer, *, num_steps: int, warmup_share: float) -> LambdaLR:
    """Return the schedule that rises linearly over the warm-up and falls to zero along half a cosine.

    Args:
        optimizer: Whose rates it scales.
        num_steps: Optimizer steps of the whole run.
        warmup_share: LLaVA: the warm-up is rounded up to whole steps.
    """
    num_warmup = ceil(num_steps * warmup_share)
    return LambdaLR(optimizer, lambda step: schedule_factor(step, num_steps=num_steps, num_warmup=num_warmup))


def schedule_factor(step: int, *, num_steps: int, num_warmup: int) -> float:
    """Return what the learning rate is multiplied by after ``step`` optimizer steps.

    >>> [round(schedule_factor(step, num_steps=6, num_warmup=2), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < num_warmup:
        return step / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return max(0.0, 0.5 * (1.0 + cos(pi * progress)))


def _norm_parameters(model: nn.Module) -> Iterable[str]:
    for module_name, module in model.named_modules():
        if type(module).__name__.endswith("Norm"):
            for name, _ in module.named_parameters(recurse=False):
                yield f"{module_name}.{name}"
