"""A model, its optimizer and its strategy to the memory of a run, for any number of samples at once.

In: a `LlavaModule` whose layers are not built, and a `Spread`. Out: a `MemoryPlan`, which is asked for the memory of
micro batches, and for the largest one that fits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llava_pl.models.llava import LlavaModel
from llava_pl.planning.batches import BatchShape
from llava_pl.planning.dry_run import run_dry
from llava_pl.planning.empty_model import build_run_model, weigh
from llava_pl.planning.memory import HostMemory, RankMemory, find_largest, host_memory, rank_memory
from llava_pl.planning.optimizer_state import measure_optimizer
from llava_pl.planning.spread import Spread, compute_dtype
from llava_pl.training.module import LlavaModule
from llava_pl.training.stages import PartSummary, summarize_parts

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
        half = compute_dtype(trainer.precision)
        self._autocast = half
        self._spread = spread
        self._accumulates = int(trainer.accumulate_grad_batches or 1) > 1
        is_gpu, is_scaled = trainer.accelerator != "cpu", str(trainer.precision) in ("16-mixed", "16")
        self._is_fused = is_gpu and not is_scaled and module.optim_config.optimizer in FUSED
        self.model: LlavaModel = build_run_model(module)
        self.parts = [_name_quantized(part, decoder.quantization) for part in summarize_parts(self.model)]
        self.optimizer = measure_optimizer(self.model, module.optim_config)
        self.host: HostMemory = host_memory(weigh(self.model, decoder), self.optimizer, spread)
        if spread.has_master and half is not None:  # as DeepSpeed does, instead of autocast
            self.model, self._autocast = build_run_model(module), None
            for parameter in self.model.parameters():
                parameter.data = parameter.data.to(half)
        self.weights = weigh(self.model, decoder)
        self._known: dict[BatchShape, RankMemory] = {}

    def of(self, shape: BatchShape) -> RankMemory:
        """Return the memory of a device.

        Raises:
            InputError: The model refuses such a batch.
        """
        if shape not in self._known:
            run = run_dry(self.model, shape, autocast=self._autocast)
            self._known[shape] = rank_memory(
                self.weights,
                self.optimizer,
                run,
                self._spread,
                accumulates=self._accumulates,
                is_fused=self._is_fused,
            )
        return self._known[shape]

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
        if guess >= 1 and not first <= limit < second and self.of(shape.of(guess)).peak <= limit:
            return guess
        return find_largest(lambda number: self.of(shape.of(number)).peak <= limit, start=guess)


def _name_quantized(part: PartSummary, quantization: str) -> PartSummary:
    """Return a part with the name of how its blocks are held, which are whole in a model without weights."""
    if part.part != "decoder" or quantization == "none":
        return part
    return replace(part, dtypes=f"{quantization}, float32")
