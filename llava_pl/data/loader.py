"""Batches to optimizer steps: each micro batch learns how many tokens its whole step supervises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import Any

from torch.utils.data import DataLoader

from llava_pl.data.sampler import ResumableSampler
from llava_pl.types import Batch, Sample


class StepLoader(DataLoader[Sample]):
    """A loader that reads a step's micro batches ahead and writes ``num_step_supervised`` into each.

    The loss divides by the supervised tokens of the global batch. With accumulation these are known only after the
    last micro batch, but the first one's backward pass already needs them; reading ahead costs nothing but the memory
    of the waiting micro batches, and works under every strategy (no gradient is rescaled afterwards).

    Its state, which Lightning puts into checkpoints, is the number of batches handed out in this epoch: a resumed run
    goes on with the next one, without reading those before it.

    Args:
        *args: As for torch's ``DataLoader``.
        count_micro_batches: Called at the start of each step; returns how many micro batches it accumulates.
        count_batches: Called at the start of each step; returns after how many batches the epoch is cut short.
        **kwargs: As for torch's ``DataLoader``.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401  torch's own
        count_micro_batches: Callable[[], int] = lambda: 1,
        count_batches: Callable[[], float] = lambda: inf,
        **kwargs: Any,  # noqa: ANN401  torch's own
    ) -> None:
        super().__init__(*args, **kwargs)
        self.count_micro_batches = count_micro_batches
        self.count_batches = count_batches
        self._num_done = 0
        self._resume_at = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch's type promises its own iterator class
        self._num_done, self._resume_at = self._resume_at, 0
        if isinstance(self.sampler, ResumableSampler):
            self.sampler.start = self._num_done * (self.batch_size or 1)
        batches: Iterator[Batch] = super().__iter__()
        while step := list(islice(batches, self._count_next())):
            num_supervised = sum(batch["num_supervised"] for batch in step)
            for batch in step:
                batch["num_step_supervised"] = num_supervised
                self._num_done += 1
                yield batch

    def _count_next(self) -> int:
        """Return how many micro batches the next step has: the last one of a shortened epoch may have fewer."""
        left = self.count_batches() - self._num_done
        return int(min(self.count_micro_batches(), left)) if left > 0 else self.count_micro_batches()

    def state_dict(self) -> dict[str, int]:
        """Return the position within the epoch."""
        return {"num_done": self._num_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that were done; a finished epoch is followed by the start of the next."""
        self._resume_at = state["num_done"] if state["num_done"] < len(self) else 0
