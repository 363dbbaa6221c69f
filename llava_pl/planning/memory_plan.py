"""A model, its optimizer and its strategy to the memory of a run, for any number of samples at once.

In: a `LlavaModule` whose layers are not built, and a `Spread`. Out: a `MemoryPlan`, which is asked for the memory of
micro batches, and for the largest one that fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import nn

from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.recompute import GradientCheckpointing, find_layers, run_layer
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.dry_run import run_dry
from llava_pl.planning.memory import HostMemory, RankMemory, host_memory, rank_memory
from llava_pl.planning.optimizer_state import measure_optimizer
from llava_pl.planning.spread import Spread, read_precision
from llava_pl.planning.weights import build_run_model, gather_half, weigh
from llava_pl.training.module import LlavaModule
from llava_pl.training.stages import PartSummary, summarize_parts

DTYPES = {"16": torch.float16, "bf16": torch.bfloat16, "32": torch.float32, "64": torch.float64}
"""What a precision computes in."""

KINDS: tuple[GradientCheckpointing, ...] = get_args(GradientCheckpointing)
"""Of recomputation, the cheapest first."""

MOST_SAMPLES = 1024
"""Larger micro batches are not looked for."""

FUSED = ("torch.optim.Adam", "torch.optim.AdamW")
"""Optimizers whose update is a single kernel on a GPU; see `optim.build_optimizer`."""


class MemoryPlan:
    """What a run needs, by the size of its micro batch.

    Args:
        module: Of which `configure_model` was not called.
        spread: How the run is spread.
        trainer: Settings of the trainer: its precision, accelerator and accumulation count.

    Attributes:
        model: On the meta device, or fake.
        parts: What each part of it holds.
        weights: The bytes of its weights.
        host: Memory of a machine, and disk.
    """

    def __init__(self, module: LlavaModule, spread: Spread, trainer: Any) -> None:  # noqa: ANN401  a namespace
        decoder = module.model_config.decoder
        bits, _, mode = read_precision(trainer.precision).partition("-")
        dtype = DTYPES[bits]
        self._autocast = dtype if mode == "mixed" else None
        self._spread = spread
        self._accumulates = int(trainer.accumulate_grad_batches or 1) > 1
        is_gpu, is_scaled = trainer.accelerator != "cpu", (bits, mode) == ("16", "mixed")
        self._is_fused = is_gpu and not is_scaled and module.optim_config.optimizer in FUSED
        self.model: LlavaModel = build_run_model(module)
        if mode == "true" and bits != "32":  # Lightning turns the whole model
            self._hold_in(dtype)
        self.parts = [_name_quantized(part, decoder.quantization) for part in summarize_parts(self.model)]
        self.optimizer = measure_optimizer(self.model, module.optim_config)
        self.host: HostMemory = host_memory(weigh(self.model, decoder), self.optimizer, spread, is_device=not is_gpu)
        if spread.has_master:  # DeepSpeed turns it, too, in place of autocast
            self.model, self._autocast = build_run_model(module), None
            self._hold_in(dtype)
        gathers_half = spread.name == "fsdp2" and (bits, mode) == ("bf16", "mixed")
        self.weights = weigh(self.model, decoder, gathers_half=gathers_half)
        if gathers_half:
            gather_half(self.model)
        self._recomputes = decoder.recompute
        self._known: dict[str, dict[BatchShape, RankMemory]] = {}

    def _hold_in(self, dtype: torch.dtype) -> None:
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(dtype)

    @property
    def _layers(self) -> list[nn.Module]:
        return find_layers(cast("CausalDecoder", self.model.decoder).model)

    def of(self, shape: BatchShape) -> RankMemory:
        """Return the memory of a device.

        Raises:
            InputError: The model refuses such a batch.
        """
        known = self._known.setdefault(self._recomputes, {})
        if shape not in known:
            run = run_dry(self.model, shape, autocast=self._autocast)
            known[shape] = rank_memory(
                self.weights,
                self.optimizer,
                run,
                self._spread,
                accumulates=self._accumulates,
                is_fused=self._is_fused,
            )
        return known[shape]

    def find_recompute(self, shape: BatchShape, limit: int) -> GradientCheckpointing | None:
        """Return the cheapest recomputation with which a micro batch stays within some bytes; None if it never does.

        Raises:
            InputError: The model refuses such a batch.
        """
        # ZeRO-3 gathers weights within a layer, which "selective" cannot recompute.
        refused = {"selective"} if self._spread.is_zero and self._spread.weights != "whole" else set()
        own = self._recomputes
        try:
            for kind in (kind for kind in KINDS if self._layers or kind == "none"):
                self.recompute(kind)
                if kind not in refused and self.of(shape).peak <= limit:
                    return kind
        finally:
            self.recompute(own)
        return None

    def recompute(self, kind: GradientCheckpointing) -> None:
        """Have the layers of the decoder computed again as a kind of recomputation says."""
        self._recomputes = kind
        for layer in self._layers:
            layer.forward = partial(run_layer, layer, kind)

    def find_largest(self, shape: BatchShape, limit: int) -> int:
        """Return the most samples of such a length whose micro batch stays within some bytes; 0 if there are none.

        Raises:
            InputError: The model refuses such a batch.
        """
        size = shape.num_samples
        first, second = self.of(shape).peak, self.of(shape.of(2 * size)).peak
        per_sample = max(1.0, (second - first) / size)
        guess = size + int((limit - first) // per_sample)
        # A peak is the largest of several sums that each grow evenly, so outside of the two sizes it lies on their line
        # or above: what does not fit on the line does not fit.
        if 1 <= guess < MOST_SAMPLES and not first <= limit < second and self.of(shape.of(guess)).peak <= limit:
            return guess
        return find_largest(lambda number: self.of(shape.of(number)).peak <= limit, start=guess)


def find_largest(fits: Callable[[int], bool], *, start: int, most: int = MOST_SAMPLES) -> int:
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


def _name_quantized(part: PartSummary, quantization: str) -> PartSummary:
    """Return a part with the name of how its blocks are held, which are whole in a model without weights."""
    if part.part != "decoder" or quantization == "none":
        return part
    return replace(part, dtypes=f"{quantization}, float32")
