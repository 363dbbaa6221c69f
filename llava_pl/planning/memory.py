"""Weights, optimizer and a dry run to the memory of one device, of a host and of a disk.

In: what each takes before it is divided, and how it is spread. Out: `RankMemory`, `HostMemory`. What a device takes for
itself (context, kernels, fragments of its allocator, buffers of its network) is not in these numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from llava_pl.planning.dry_run import DryRun
from llava_pl.planning.empty_model import WeightBytes
from llava_pl.planning.optimizer_state import OptimizerBytes
from llava_pl.planning.spread import Place, Spread

LIVE_ELEMENTS = 1_000_000_000
"""Weights that ZeRO-3 gathers at most: DeepSpeed's default of `stage3_max_live_parameters`."""


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of one device at the worst time of a step.

    Args:
        weights: What it keeps of them.
        gradients: All that it holds of them at once, and their copies.
        states: What it keeps of the optimizer's state.
        gathered: Weights and gradients that are whole while they are used, buffers that they are sent from, and the
            layer that is dequantized.
        activations: The most that is alive beside these.
        peak: The most that is alive in all; less than the sum where not all is at its worst at the same time.
        peak_at: When: "forward", "backward" or "update".
    """

    weights: int
    gradients: int
    states: int
    gathered: int
    activations: int
    peak: int
    peak_at: str


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of one machine.

    Args:
        loading: Of all its processes together while weights are read.
        offloaded: What lies there in place of the devices' memory.
        saving: The copy of which a checkpoint is written in the background.
        checkpoint: On disk, each.
    """

    loading: int
    offloaded: int
    saving: int
    checkpoint: int


def rank_memory(
    weights: WeightBytes, optimizer: OptimizerBytes, run: DryRun, spread: Spread, *, accumulates: bool, is_fused: bool
) -> RankMemory:
    """Return the memory of a device.

    Args:
        weights: Of the model.
        optimizer: Of its optimizer.
        run: Of a micro batch.
        spread: How all this is spread.
        accumulates: Whether a step has more than one micro batch, so that its gradients stay while the next one runs.
        is_fused: Whether the update is a single kernel, which needs nothing beside what it changes.
    """
    num_ranks = spread.num_ranks
    is_zero = spread.name.startswith("zero")  # which divides a frozen encoder with the rest
    whole, divisible = (0, weights.total) if is_zero else (weights.whole, weights.divisible)
    own = whole + divide(divisible, spread.weights, num_ranks)
    states = divide(optimizer.states + (4 * weights.num_trained if spread.has_master else 0), spread.states, num_ranks)
    held = divide(weights.trained, spread.gradients, num_ranks)
    copied = weights.trained if spread.has_gradient_copy else 0
    gathered, gathered_backward = _gathered(weights, spread)
    kept = own + states + gathered
    # Lightning lets go of a step's gradients when the next forward pass is done.
    forward = kept + held + copied + run.forward_peak
    share = held / weights.trained if weights.trained else 0.0
    keeps = accumulates or (spread.has_buckets and not spread.has_gradient_copy)
    backward = kept + gathered_backward
    if spread.has_gradient_copy:
        backward += copied
    backward += max(ceil(m.others + (held if keeps else share * m.gradients)) for m in run.backward)
    update = own + states + held + copied + (0 if is_fused else ceil(optimizer.update * _share(spread)))
    if spread.has_master:  # gradients are raised to float32
        update += divide(4 * weights.num_trained, spread.states, num_ranks)
    peaks = {"forward": forward, "backward": backward, "update": update}
    peak_at = max(peaks, key=peaks.__getitem__)
    return RankMemory(
        weights=own,
        gradients=held + copied,
        states=states,
        gathered=gathered + gathered_backward,
        activations=max(run.forward_peak, max(moment.others for moment in run.backward)),
        peak=peaks[peak_at],
        peak_at=peak_at,
    )


def host_memory(weights: WeightBytes, optimizer: OptimizerBytes, spread: Spread) -> HostMemory:
    """Return the memory of a host, and of the disk.

    A checkpoint holds what learns and the optimizer's state, in float32, whatever the strategy.
    """
    checkpoint = 4 * weights.num_trained + optimizer.states
    ranks, here = spread.num_ranks, spread.devices_per_node
    offloaded = 0
    if spread.states == "host":
        offloaded += (optimizer.states + (4 * weights.num_trained if spread.has_master else 0)) * here // ranks
    if spread.gradients == "host":
        offloaded += 4 * weights.num_trained * here // ranks
    if spread.weights == "host":
        offloaded += weights.total * here // ranks
    is_divided = "whole" not in (spread.weights, spread.states)
    return HostMemory(
        loading=weights.total * here,
        offloaded=offloaded,
        saving=checkpoint * here // ranks if is_divided else checkpoint,
        checkpoint=checkpoint,
    )


def divide(num_bytes: int, place: Place, num_ranks: int) -> int:
    """Return what one device holds of something.

    >>> [divide(10, place, 4) for place in ("whole", "pieces", "host")]
    [10, 3, 0]
    """
    return {"whole": num_bytes, "pieces": ceil(num_bytes / num_ranks), "host": 0}[place]


def find_largest(fits: Callable[[int], bool], *, start: int, most: int = 1024) -> int:
    """Return the largest number that fits, 0 if not even 1 does; what fits, its predecessor fits, too.

    Args:
        fits: Asked for few numbers, from near the answer.
        start: Where to look first.
        most: Larger ones are not looked at.

    >>> asked = []
    >>> find_largest(lambda number: not asked.append(number) and number <= 37, start=35), asked
    (37, [35, 36, 38, 37])
    """
    low, high, step = 0, most + 1, 1
    number = min(max(1, start), most)
    while high - low > 1:
        if fits(number):
            low = number
        else:
            high = number
        inner = low + step if high > most else high - step if low == 0 else (low + high) // 2
        if low == 0 or high > most:
            step *= 2
        number = min(max(inner, low + 1), high - 1)
    return low


def _gathered(weights: WeightBytes, spread: Spread) -> tuple[int, int]:
    """Return what is whole for a time on the way forward, and what is added on the way back."""
    if spread.name.startswith("fsdp"):
        return weights.gathered + weights.dequantized, weights.gathered_gradients
    if not spread.name.startswith("zero"):
        return weights.dequantized, 0
    item = 2 if spread.has_master else 4
    # Twice: one buffer is filled while the other one is sent.
    buckets = 2 * item * min(spread.bucket_elements, weights.num_trained)
    live = 0 if spread.weights == "whole" else item * min(LIVE_ELEMENTS, weights.num_weights)
    return live + weights.dequantized, buckets


def _share(spread: Spread) -> float:
    return {"whole": 1.0, "pieces": 1 / spread.num_ranks, "host": 0.0}[spread.states]
