"""Optimizer groups and learning-rate schedule, by default as the original builds them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from math import ceil, cos, pi
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llava_pl.models.llava import LlavaModel
from llava_pl.models.quantization import require_bitsandbytes
from llava_pl.training.stages import PARTS, Part, TrainablePlan, parameters_by_part
from llava_pl.types import InputError

OWN_FIELDS = {
    "params": "model.trainable",
    "lr": "model.optim.learning_rate",
    "weight_decay": "model.optim.weight_decay",
}
"""Arguments of optimizers that are no options."""


@dataclass(frozen=True)
class PartOptim:
    """How the weights of one part are updated, where it differs from the others.

    Args:
        learning_rate: Peak learning rate.
        weight_decay: Of matrices and embeddings.
    """

    learning_rate: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class OptimConfig:
    """How weights are updated.

    Args:
        learning_rate: Peak learning rate.
        weight_decay: Of matrices and embeddings; norms and biases never decay.
        betas: Decay of the averages of Adam and its kin.
        eps: Added to their denominator.
        warmup_share: Share of all steps in which the rate rises from zero.
        optimizer: Class of the optimizer, such as torch.optim.SGD or bitsandbytes.optim.PagedAdamW8bit.
        options: What else the class takes, by name.
        vision_encoder: What differs for the vision encoder.
        projector: What differs for the projector.
        decoder: What differs for the decoder.
        embeddings: What differs for the word embeddings.
    """

    learning_rate: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_share: float = 0.03
    optimizer: str = "torch.optim.AdamW"
    options: dict[str, Any] = field(default_factory=dict)
    vision_encoder: PartOptim = PartOptim()
    projector: PartOptim = PartOptim()
    decoder: PartOptim = PartOptim()
    embeddings: PartOptim = PartOptim()

    def __post_init__(self) -> None:
        """Take parts as plain values, too, and refuse what no optimizer or the schedule can work with."""
        for part in PARTS:
            if isinstance(given := getattr(self, part), dict):
                object.__setattr__(self, part, PartOptim(**given))
        least_0 = {"eps": self.eps}
        for prefix, each in (("", self), *((f"{part}.", getattr(self, part)) for part in PARTS)):
            least_0 |= {f"{prefix}learning_rate": each.learning_rate, f"{prefix}weight_decay": each.weight_decay}
        for name, value in least_0.items():
            if value is not None and value < 0:
                raise InputError(f"model.optim.{name}: expected at least 0, found {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"model.optim.betas: expected numbers in [0, 1), found {self.betas}")
        if not 0 <= self.warmup_share <= 1:
            raise InputError(f"model.optim.warmup_share: expected a share from 0 to 1, found {self.warmup_share}")
        for name, field_name in OWN_FIELDS.items():
            if name in self.options:
                raise InputError(f"model.optim.options: found {name}, which is set by {field_name}; leave it out there")

    def of(self, part: Part) -> tuple[float, float]:
        """Return the learning rate and the weight decay of a part.

        >>> OptimConfig(learning_rate=1.0, projector=PartOptim(learning_rate=0.5)).of("projector")
        (0.5, 0.0)
        """
        own: PartOptim = getattr(self, part)
        return (
            self.learning_rate if own.learning_rate is None else own.learning_rate,
            self.weight_decay if own.weight_decay is None else own.weight_decay,
        )


def check_rates(config: OptimConfig, plan: TrainablePlan) -> None:
    """Check that values are given for parts that learn.

    Raises:
        InputError: A frozen part has a rate or a decay of its own.
    """
    for part in PARTS:
        if getattr(config, part) != PartOptim() and not plan.trains(part):
            raise InputError(
                f"model.optim.{part}: found values of its own, but the part is frozen; train it with "
                f"model.trainable.{part}, or leave them out"
            )


def build_parameter_groups(model: LlavaModel, config: OptimConfig) -> list[dict[str, Any]]:
    """Return the groups of trainable parameters: decay or not, parts with values of their own apart.

    LLaVA: parameters of norm layers and biases do not decay, everything else does (CLIP's class embedding, a vector,
    too). Unlike LLaVA, the newline embedding of tiled pictures has the projector's rate. Empty groups are left out.
    Each group has a `name` for the log.
    """
    no_decay = set(_norm_parameters(model))
    part_of = {name: part for part, parameters in parameters_by_part(model).items() for name in parameters}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of[name]
        rate, decay = config.of(part)
        prefix = "" if getattr(config, part) == PartOptim() else f"{part}_"
        decays = name not in no_decay and "bias" not in name
        group = {
            "name": prefix + ("decay" if decays else "no_decay"),
            "params": [],
            "lr": rate,
            "weight_decay": decay if decays else 0.0,
        }
        groups.setdefault((prefix, decays), group)["params"].append(parameter)
    order = [(prefix, decays) for prefix in ("", *(f"{part}_" for part in PARTS)) for decays in (True, False)]
    return [groups[key] for key in order if key in groups]


def build_optimizer(
    model: LlavaModel, config: OptimConfig, *, allows_fused: bool = True, is_on_host: bool = False
) -> Optimizer:
    """Return the optimizer over the trainable parameters.

    Args:
        model: What learns.
        config: Class and settings; `betas` and `eps` go to classes that take them.
        allows_fused: Whether the update may be a single kernel where weights lie on a GPU.
        is_on_host: Whether weights are updated in host memory while they lie on a GPU (DeepSpeed's offloading), which
            it has a kernel of its own for.

    Raises:
        InputError: There is no such class, or it does not take the settings.
    """
    make = _find_optimizer(config.optimizer)
    takes = inspect.signature(make).parameters
    # Not to those that mean something else by the name, as Adafactor does by eps.
    shared = {n: getattr(config, n) for n in ("betas", "eps") if n in takes and _is_like(takes[n], getattr(config, n))}
    groups = build_parameter_groups(model, config)
    if "weight_decay" not in takes and any(group["weight_decay"] for group in groups):
        raise InputError(f"model.optim.weight_decay: {config.optimizer} knows no weight decay; set it to 0")
    if is_on_host and make in (Adam, AdamW):
        from deepspeed.ops.adam import DeepSpeedCPUAdam  # an extra, whose import takes seconds

        make = partial(DeepSpeedCPUAdam, adamw_mode=make is AdamW)
    elif allows_fused and make in (Adam, AdamW) and all(p.is_cuda for group in groups for p in group["params"]):
        shared["fused"] = True
    try:
        optimizer: Optimizer = make(groups, **{"lr": config.learning_rate, **shared, **config.options})
    except Exception as error:  # classes check what they are given by any means, assertions and indices among them
        raise InputError(f"model.optim: {config.optimizer} refuses its settings: {error}") from error
    return optimizer


def _is_like(argument: inspect.Parameter, value: object) -> bool:
    """Whether an argument has a default of the same form as a value, or none."""
    default = argument.default
    if default is inspect.Parameter.empty or not isinstance(value, tuple):
        return default is inspect.Parameter.empty or isinstance(default, int | float)
    return isinstance(default, tuple) and len(default) == len(value)


def _find_optimizer(path: str) -> Any:  # noqa: ANN401  classes of optimizers differ in what they take
    package, _, name = path.rpartition(".")
    if package.partition(".")[0] == "bitsandbytes":
        require_bitsandbytes(f"model.optim.optimizer: {path}")
    try:
        found = getattr(import_module(package), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"model.optim.optimizer: expected the full name of a class, such as torch.optim.AdamW, found {path!r} "
            f"({error}); check its spelling, and that its package is installed"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise InputError(f"model.optim.optimizer: expected a torch Optimizer, found {path!r}; name a class of one")
    return found


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
