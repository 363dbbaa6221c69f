"""Batches to optimizer steps: each micro batch learns how many tokens its whole step supervises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from llava_pl.types import Batch, Sample


class StepLoader(DataLoader[Sample]):
    """A loader that reads a step's micro batches ahead and writes ``num_step_supervised`` into each.

    The loss divides by the supervised tokens of the global batch. With accumulation these are known only after the
    last micro batch, but the first one's backward pass already needs them; reading ahead costs nothing but the memory
    of the waiting micro batches, and works under every strategy (no gradient is rescaled afterwards).

    Args:
        *args: As for torch's ``DataLoader``.
        count_micro_batches: Called at the start of each step; returns how many micro batches it accumulates.
        **kwargs: As for torch's ``DataLoader``.
    """

    def __init__(self, *args: Any, count_micro_batches: Callable[[], int] = lambda: 1, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.count_micro_batches = count_micro_batches

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch's type promises its own iterator class
        batches: Iterator[Batch] = super().__iter__()
        while step := list(islice(batches, self.count_micro_batches())):
            num_supervised = sum(batch["num_supervised"] for batch in step)
            for batch in step:
                batch["num_step_supervised"] = num_supervised
                yield batch
