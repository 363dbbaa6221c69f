"""The `trainer` group of a configuration to how weights, gradients and optimizer state are spread over devices.

In: the merged configuration. Out: a `Spread`. Lightning's classes say what a name means; none is made.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, StrategyRegistry

from llava_pl.training.strategies import FSDP2Strategy
from llava_pl.training.zero import ZeroStrategy
from llava_pl.types import InputError

UNIFIED = {"None": "32-true", "32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""What short forms of `trainer.precision` mean."""

Place = Literal["whole", "pieces", "host"]
"""Where something lies: whole on each device, in equal pieces on all, or in equal pieces in their hosts' memory."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How a run is spread.

    Args:
        name: What messages call it.
        num_nodes: Machines.
        devices_per_node: Devices of each.
        weights: Where weights lie.
        gradients: Where gradients lie.
        states: Where the optimizer's state lies, and float32 copies of weights with it.
        has_buckets: Whether gradients lie in buffers that are never given back.
        has_gradient_copy: Whether gradients lie beside these buffers, too.
        has_master: Whether weights are in half precision, with copies in float32 in the optimizer.
        is_known: Whether the strategy is one of those that are known here.
    """

    name: str
    num_nodes: int = 1
    devices_per_node: int = 1
    weights: Place = "whole"
    gradients: Place = "whole"
    states: Place = "whole"
    has_buckets: bool = False
    has_gradient_copy: bool = False
    has_master: bool = False
    is_known: bool = True

    @property
    def num_ranks(self) -> int:
        """Devices in all."""
        return self.num_nodes * self.devices_per_node

    @property
    def is_zero(self) -> bool:
        """Whether DeepSpeed divides what is divided."""
        return self.name.startswith("zero")


def read_spread(trainer: Any) -> Spread:  # noqa: ANN401  jsonargparse's namespace, whose keys are Trainer's arguments
    """Return how a trainer with these settings spreads a run.

    Raises:
        InputError: There is no strategy of such a name, or no device.
    """
    nodes, devices = int(trainer.num_nodes), count_devices(trainer.devices)
    if nodes < 1:
        raise InputError(f"trainer.num_nodes: expected at least 1, found {nodes}")
    shared: dict[str, Any] = {"num_nodes": nodes, "devices_per_node": devices}
    kind, options = _find_strategy(trainer.strategy)
    if kind is None:
        if nodes * devices == 1:
            return Spread("single", **shared)
        return Spread("ddp", has_buckets=True, has_gradient_copy=True, **shared)
    if issubclass(kind, SingleDeviceStrategy):
        return Spread("single", **shared)
    if issubclass(kind, ZeroStrategy):
        divided: Place = "host" if options["offload"] else "pieces"
        return Spread(
            f"zero{options['stage']}{'_offload' if options['offload'] else ''}",
            weights="whole" if options["stage"] == 2 else divided,
            gradients=divided,
            states=divided,
            has_master="16" in read_precision(trainer.precision),
            **shared,
        )
    if issubclass(kind, FSDP2Strategy):
        return Spread("fsdp2", weights="pieces", gradients="pieces", states="pieces", **shared)
    is_ddp = issubclass(kind, DDPStrategy) and not issubclass(kind, DeepSpeedStrategy)  # which Lightning derives of it
    has_view = bool(options.get("gradient_as_bucket_view"))
    name = "ddp" if is_ddp else kind.__name__
    return Spread(name, has_buckets=is_ddp, has_gradient_copy=is_ddp and not has_view, is_known=is_ddp, **shared)


def count_devices(devices: Any, available: int = 1) -> int:  # noqa: ANN401  all that Trainer takes
    """Return how many devices of a machine the words of `trainer.devices` mean.

    Args:
        devices: The words.
        available: Those of the machine, which it would take for "auto" and -1.

    Raises:
        InputError: They mean nothing.

    >>> [count_devices(words, available=4) for words in (8, "2", [0, 3], "0,1,4", "auto", -1)]
    [8, 2, 2, 3, 4, 4]
    """
    if isinstance(devices, list | tuple):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([word for word in devices.split(",") if word.strip()])
    if str(devices) in ("auto", "-1"):
        return available
    if not str(devices).isdecimal() or int(devices) < 1:
        raise InputError(f"trainer.devices: expected a number of devices, their numbers, or auto, found {devices!r}")
    return int(devices)


def read_precision(precision: Any) -> str:  # noqa: ANN401  all that Trainer takes
    """Return the full name of a precision.

    >>> [read_precision(word) for word in (None, "16", "bf16-true")]
    ['32-true', '16-mixed', 'bf16-true']
    """
    return UNIFIED.get(str(precision), str(precision))


def _find_strategy(given: Any) -> tuple[type | None, dict[str, Any]]:  # noqa: ANN401  a name, or a class with arguments
    """Return a strategy's class and arguments, its own defaults among them; None for "auto"."""
    if given in (None, "auto"):
        return None, {}
    if isinstance(given, str):
        if given not in StrategyRegistry:
            known = "auto, ddp, or a class of configs/strategy/"
            raise InputError(f"trainer.strategy: expected {known}, found {given!r}; check its spelling")
        entry = StrategyRegistry[given]
        kind, options = entry["strategy"], dict(entry["init_params"])
    else:
        module, _, name = given["class_path"].rpartition(".")
        kind, options = getattr(import_module(module), name), dict(given.get("init_args") or {})
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is not parameter.empty
    }
    return kind, {**defaults, **options}
