"""Batches to optimizer steps: each micro batch learns how many tokens its whole step supervises."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import Any

import torch
from torch.utils.data import DataLoader

from llava_pl.data.sampler import ResumableSampler
from llava_pl.types import Batch, InputError, Sample


class StepLoader(DataLoader[Sample]):
    """A loader that reads a step's micro batches ahead and writes ``num_step_supervised`` into each.

    The loss divides by the supervised tokens of the global batch. With accumulation these are known only after the
    last micro batch, but the first one's backward pass already needs them; reading ahead costs nothing but the memory
    of the waiting micro batches, and works under every strategy (no gradient is rescaled afterwards).

    Its state, which Lightning puts into checkpoints, is the epoch and the number of batches handed out in it: a resumed
    run goes on with the next one, without reading those before it. It also says how global batches were split; in
    another split, the same number of batches is another place.

    Args:
        *args: As for torch's ``DataLoader``.
        count_micro_batches: Called at the start of each step; returns how many micro batches it accumulates.
        count_batches: Called at the start of each step; returns after how many batches the epoch is cut short.
        **kwargs: As for torch's ``DataLoader``.

    Attributes:
        waited_seconds: How long whoever asked for batches has waited for them so far.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401  torch's own
        count_micro_batches: Callable[[], int] = lambda: 1,
        count_batches: Callable[[], float] = lambda: inf,
        **kwargs: Any,  # noqa: ANN401  torch's own
    ) -> None:
        # Otherwise each epoch draws a seed for its workers from the generator that dropout uses.
        super().__init__(*args, **{"generator": torch.Generator(), "worker_init_fn": outlive_signals, **kwargs})
        self.count_micro_batches = count_micro_batches
        self.count_batches = count_batches
        self.waited_seconds = 0.0
        self._num_done = 0
        self._resume_at: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch's type promises its own iterator class
        asked = time.perf_counter()
        self._num_done = self._take_position()
        if isinstance(self.sampler, ResumableSampler):
            self.sampler.start = self._num_done * (self.batch_size or 1)
        batches: Iterator[Batch] = super().__iter__()
        while step := list(islice(batches, self._count_next())):
            num_supervised = sum(batch["num_supervised"] for batch in step)
            self.waited_seconds += time.perf_counter() - asked
            for batch in step:
                batch["num_step_supervised"] = num_supervised
                self._num_done += 1
                yield batch
            asked = time.perf_counter()

    def _take_position(self) -> int:
        """Return how many batches of this epoch are done; those of a finished or another epoch count no more."""
        state, self._resume_at = self._resume_at, None
        if state is None or state["num_done"] >= min(len(self), self.count_batches()):
            return 0
        return state["num_done"] if state.get("epoch", self._epoch) == self._epoch else 0

    @property
    def _epoch(self) -> int:
        return int(getattr(self.sampler, "epoch", 0))

    def _count_next(self) -> int:
        """Return how many micro batches the next step has: the last one of a shortened epoch may have fewer."""
        left = self.count_batches() - self._num_done
        return int(min(self.count_micro_batches(), left)) if left > 0 else self.count_micro_batches()

    def state_dict(self) -> dict[str, int]:
        """Return the position, the epoch and how many of its batches are done, and how global batches are split."""
        return self._resume_at or {"epoch": self._epoch, "num_done": self._num_done, **self._split}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that were done.

        Raises:
            InputError: Global batches were split otherwise, so that the number of batches says nothing about the
                samples that were seen. Where only the split differs, `training/resplit.py` has counted anew.
        """
        own, saved = list(self._split.values()), [state.get(name, value) for name, value in self._split.items()]
        if saved != own:
            raise InputError(
                f"data.batch_size: {own[0]} samples a micro batch over all devices, {own[1]} of them a step, but the "
                f"checkpoint was made with {saved[0]} and {saved[1]}; change data.batch_size or "
                f"trainer.accumulate_grad_batches so that a step has {saved[0] * saved[1]} samples, or start anew with "
                "--model.init_from"
            )
        self._resume_at = dict(state)

    @property
    def _split(self) -> dict[str, int]:
        """How many samples a batch has over all devices, and how many batches a step."""
        sampler: Any = self.sampler
        per_rank = self.batch_size or int(getattr(sampler, "micro_batch_size", 1))  # of packed rows the average
        return {
            "batch_size": per_rank * int(getattr(sampler, "num_replicas", 1)),
            "num_micro_batches": int(getattr(sampler, "num_micro_batches", 1)),
        }


def outlive_signals(_: int) -> None:
    """Leave it to the process that trains to answer a signal that is sent to its workers too.

    A cluster signals every process of a job, a terminal every process of a group; a worker that ends at once would take
    the step with it that is still to be finished. SIGTERM from the process that started it is how that one ends its
    workers when it ends itself, and does.
    """
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
