"""What a plan says of a run, and what it takes for granted.

In: numbers. Out: `RunPlan`, plain values throughout, for a terminal or a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from llava_pl.models.work import Work
from llava_pl.planning.data_facts import DataFacts
from llava_pl.planning.memory import HostMemory, RankMemory
from llava_pl.planning.spread import Spread
from llava_pl.training.feature_worth import FeatureWorth
from llava_pl.training.stages import PartSummary
from llava_pl.types import InputError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no configuration says.

    Args:
        device_memory_gib: Memory of a device.
        headroom: Share of it that is left to what is not counted: context, kernels, fragments, buffers of the network.
        mfu: Share of a device's operations that a run makes use of, as Chowdhery et al. 2022 count them.
        device_tflops: What a device can do in a second, in 10^12 operations.
        num_samples: Samples of an epoch where the records are not here.
        mean_length: Positions of a sample on average, likewise.
    """

    device_memory_gib: float = 80.0
    headroom: float = 0.1
    mfu: float = 0.4
    device_tflops: float = 312.0
    num_samples: int | None = None
    mean_length: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if (
            not 0 < self.device_memory_gib < inf
            or not 0 < self.device_tflops < inf
            or not 0 < self.mfu <= 1
            or not 0 <= self.headroom < 1
        ):
            raise InputError(
                "plan: expected device_memory_gib and device_tflops above 0, mfu in (0, 1] and headroom in [0, 1), "
                f"found {self.device_memory_gib:g}, {self.device_tflops:g}, {self.mfu:g} and {self.headroom:g}"
            )
        for name in ("num_samples", "mean_length"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < inf:
                raise InputError(f"plan: --{name}: expected a number of at least 1, found {value:g}")

    @property
    def limit(self) -> int:
        """Bytes of a device that the counted may take."""
        return int(self.device_memory_gib * GIB * (1 - self.headroom))


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run needs.

    Args:
        stage: Of the run.
        spread: How it is spread.
        parts: Parameters of each part.
        memory: Of one device; None where the model refuses the batches.
        host: Of one machine, and the disk.
        num_checkpoints: How many checkpoints lie on the disk at once.
        batch_size: Samples of a micro batch.
        largest_batch: The most that fit into a device; None where the model refuses them.
        recompute: The cheapest `gradient_checkpointing` with which the micro batch fits; None where it never does.
        samples_per_step: Samples of a step.
        data: What is known of the samples.
        work: Operations of a sample of mean length, by part.
        work_per_step: Operations of a step, forward and backward.
        steps_per_epoch: Optimizer steps; None where the number of samples is not known.
        steps: Of the whole run, likewise.
        hours: Of the whole run, likewise.
        assumptions: What was taken for granted.
        contradictions: What does not go together.
        refusal: Why the model refuses the batches, one of the contradictions; None where it takes them.
        features: What the run would do without a store of features; None where it has none.
    """

    stage: str
    spread: Spread
    parts: list[PartSummary]
    memory: RankMemory | None
    host: HostMemory
    num_checkpoints: int
    batch_size: int
    largest_batch: int | None
    recompute: str | None
    samples_per_step: int
    data: DataFacts
    work: list[Work]
    work_per_step: int
    steps_per_epoch: int | None
    steps: int | None
    hours: float | None
    assumptions: Assumptions
    contradictions: list[str]
    refusal: str | None = None
    features: FeatureWorth | None = None
