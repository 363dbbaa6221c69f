"""The `trainer` group of a configuration to how weights, gradients and optimizer state are spread over devices.

In: the merged configuration. Out: a `Spread`. Lightning's classes say what a name means; none is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    StrategyRegistry,
)

BUCKET_ELEMENTS = 4096**2
"""Numbers in a bucket of ZeRO where its configuration comes later: the square of the decoder's width, here of 7B."""

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
        bucket_elements: Numbers in the buffers that gradients are sent from.
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
    bucket_elements: int = 0
    has_master: bool = False
    is_known: bool = True

    @property
    def num_ranks(self) -> int:
        """Devices in all."""
        return self.num_nodes * self.devices_per_node


def read_spread(trainer: Any) -> Spread:  # noqa: ANN401  jsonargparse's namespace, whose keys are Trainer's arguments
    """Return how a trainer with these settings spreads a run."""
    nodes, devices = int(trainer.num_nodes), count_devices(trainer.devices)
    shared: dict[str, Any] = {"num_nodes": nodes, "devices_per_node": devices}
    kind, options = _find_strategy(trainer.strategy)
    if kind is None:
        if nodes * devices == 1:
            return Spread("single", **shared)
        return Spread("ddp", has_buckets=True, has_gradient_copy=True, **shared)
    if issubclass(kind, SingleDeviceStrategy):
        return Spread("single", **shared)
    if issubclass(kind, DeepSpeedStrategy):
        return _spread_zero(options, is_half="16" in str(trainer.precision), **shared)
    if issubclass(kind, ModelParallelStrategy | FSDPStrategy):
        name = "fsdp2" if issubclass(kind, ModelParallelStrategy) else "fsdp"
        return Spread(name, weights="pieces", gradients="pieces", states="pieces", **shared)
    has_view = bool(options.get("gradient_as_bucket_view"))
    is_ddp = issubclass(kind, DDPStrategy)
    name = "ddp" if is_ddp else kind.__name__
    return Spread(name, has_buckets=is_ddp, has_gradient_copy=is_ddp and not has_view, is_known=is_ddp, **shared)


def count_devices(devices: Any) -> int:  # noqa: ANN401  all that Trainer takes
    """Return how many devices of a machine the words of `trainer.devices` mean; 1 where the machine would tell.

    >>> [count_devices(words) for words in (8, "2", [0, 3], "0,1,4", "auto", -1)]
    [8, 2, 2, 3, 1, 1]
    """
    if isinstance(devices, list | tuple):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([word for word in devices.split(",") if word.strip()])
    number = int(devices) if isinstance(devices, int) or str(devices).lstrip("-").isdecimal() else 1
    return max(1, number)


def compute_dtype(precision: Any) -> torch.dtype | None:  # noqa: ANN401  all that Trainer takes
    """Return what torch computes in where weights have another dtype; None for that of the weights.

    >>> [compute_dtype(word) for word in ("bf16-mixed", "16", None)]
    [torch.bfloat16, torch.float16, None]
    """
    word = str(precision)
    if word in ("bf16-mixed", "bf16"):
        return torch.bfloat16
    return torch.float16 if word in ("16-mixed", "16") else None


def _spread_zero(options: Mapping[str, Any], *, is_half: bool, **shared: Any) -> Spread:  # noqa: ANN401
    """Return the spread of a stage of ZeRO (Rajbhandari et al. 2020, section 5) and its offload (Ren et al. 2021)."""
    config = options.get("config")
    given = config.get("zero_optimization", {}) if isinstance(config, Mapping) else {}
    stage = int(given.get("stage", options.get("stage", 2)))
    all_to_host = options.get("offload")  # of this project's class
    to_host = bool(all_to_host or given.get("offload_optimizer") or options.get("offload_optimizer"))
    weights_to_host = (
        bool(all_to_host or given.get("offload_param") or options.get("offload_parameters")) and stage == 3
    )
    divided: Place = "host" if to_host else "pieces"
    return Spread(
        f"zero{stage}{'_offload' if to_host or weights_to_host else ''}",
        weights="host" if weights_to_host else "pieces" if stage == 3 else "whole",
        gradients=divided if stage >= 2 else "whole",
        states=divided if stage >= 1 else "whole",
        bucket_elements=int(given.get("reduce_bucket_size", options.get("reduce_bucket_size", BUCKET_ELEMENTS))),
        has_master=is_half,
        **shared,
    )


def _find_strategy(given: Any) -> tuple[type | None, dict[str, Any]]:  # noqa: ANN401  a name, or a class with arguments
    """Return a strategy's class and arguments, its own defaults among them; None for "auto"."""
    if given in (None, "auto"):
        return None, {}
    if isinstance(given, str):
        if given not in StrategyRegistry:
            return type(given, (), {}), {}
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
