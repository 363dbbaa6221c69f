"""Weights, optimizer and a dry run to the memory of one device, of a host and of a disk.

In: what each takes before it is divided, and how it is spread. Out: `RankMemory`, `HostMemory`. What a device takes for
itself (context, kernels, fragments of its allocator, buffers of its network) is not in these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from llava_pl.planning.dry_run import DryRun
from llava_pl.planning.optimizer_state import OptimizerBytes
from llava_pl.planning.spread import Place, Spread
from llava_pl.planning.weights import WeightBytes

LIVE_ELEMENTS = 1_000_000_000
"""Weights that ZeRO-3 gathers at most: `stage3_max_live_parameters`, as `ZeroStrategy` sets it."""


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
        loading: Of all its processes together while weights are read, at most; pages of files, which the system keeps
            for as long as nobody needs the room, are not counted.
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
    # ZeRO divides a frozen encoder with the rest.
    whole, divisible = (0, weights.total) if spread.is_zero else (weights.whole, weights.divisible)
    own = whole + divide(divisible, spread.weights, num_ranks)
    states = divide(optimizer.states + (4 * weights.num_trained if spread.has_master else 0), spread.states, num_ranks)
    held = divide(weights.trained, spread.gradients, num_ranks)
    copied = weights.trained if spread.has_gradient_copy else 0
    gathered, gathered_backward = _gathered(weights, spread)
    kept = own + states + gathered
    # Lightning lets go of a step's gradients when the next forward pass is done.
    forward = kept + held + copied + run.forward_peak
    share = held / run.gradients  # of finished gradients, how much stays on this device
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


def host_memory(weights: WeightBytes, optimizer: OptimizerBytes, spread: Spread, *, is_device: bool) -> HostMemory:
    """Return the memory of a host, and of the disk.

    A checkpoint holds what learns and the optimizer's state, whatever the strategy.

    Args:
        weights: Of the model as it is built.
        optimizer: Of its optimizer.
        spread: How all this is spread.
        is_device: Whether the host computes, too, so that what lies on a device lies in its memory.
    """
    checkpoint = weights.trained + optimizer.states
    ranks, here = spread.num_ranks, spread.devices_per_node
    offloaded = 0
    if spread.states == "host":
        offloaded += (optimizer.states + (4 * weights.num_trained if spread.has_master else 0)) * here // ranks
    if spread.gradients == "host":
        offloaded += 4 * weights.num_trained * here // ranks
    if spread.weights == "host":
        offloaded += (2 * weights.num_weights if spread.has_master else weights.total) * here // ranks
    return HostMemory(
        loading=_loading(weights, spread, is_device=is_device) * here,
        offloaded=offloaded,
        saving=checkpoint if spread.states == "whole" else checkpoint * here // ranks,
        checkpoint=checkpoint,
    )


def divide(num_bytes: int, place: Place, num_ranks: int) -> int:
    """Return what one device holds of something.

    >>> [divide(10, place, 4) for place in ("whole", "pieces", "host")]
    [10, 3, 0]
    """
    return {"whole": num_bytes, "pieces": ceil(num_bytes / num_ranks), "host": 0}[place]


def _loading(weights: WeightBytes, spread: Spread, *, is_device: bool) -> int:
    """Return what a rank holds in its host's memory while it builds the model."""
    if spread.weights == "whole":
        return weights.total
    # A rank takes its part of the decoder, unit by unit; what is fresh or small is built whole, and divided at the end.
    held = weights.total - weights.streamed
    if is_device or spread.weights == "host":
        held += divide(weights.streamed, "pieces", spread.num_ranks)
    if spread.is_zero:
        return held + weights.largest_unit  # which ZeRO reads whole before it divides it
    # On a GPU a unit is filled in the memory of the device.
    return held + (divide(weights.largest_unit, "pieces", spread.num_ranks) if is_device else 0)


def _gathered(weights: WeightBytes, spread: Spread) -> tuple[int, int]:
    """Return what is whole for a time on the way forward, and what is added on the way back."""
    if spread.name == "fsdp2":
        return weights.gathered + weights.dequantized, weights.gathered_gradients
    if not spread.is_zero:
        return weights.dequantized, 0
    item = 2 if spread.has_master else 4
    # Twice: one buffer is filled while the other one is sent.
    buckets = 2 * item * min(weights.bucket, weights.num_trained)
    live = 0 if spread.weights == "whole" else item * min(LIVE_ELEMENTS, weights.num_weights)
    return live + weights.dequantized, buckets


def _share(spread: Spread) -> float:
    return {"whole": 1.0, "pieces": 1 / spread.num_ranks, "host": 0.0}[spread.states]
