"""Ranks that wait for each other for as long as it takes.

In: the trainer of a run whose ranks have met. Out: a `Turns`, by which they wait for each other without the limit that
a strategy sets, which would end a run whose first rank computes for an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from lightning import Trainer

T = TypeVar("T")

PATIENCE = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Turns:
    """How ranks wait for each other.

    Args:
        trainer: Of the run.
        meet: Returns when all ranks have called it.
    """

    trainer: Trainer
    meet: Callable[[], None]

    def take(self, work: Callable[[], T]) -> T:
        """Return what some work comes to: the first rank does it, then the first of each node, then all others.

        It leaves something on a disk, whose readers have less to do. Nodes need not share that disk.
        """
        trainer, done = self.trainer, None
        for is_next in (trainer.is_global_zero, trainer.local_rank == 0, True):
            if is_next and done is None:
                done = (work(),)
            self.meet()
        assert done is not None
        return done[0]


@contextmanager
def take_turns(trainer: Trainer) -> Iterator[Turns]:
    """Hand out how the ranks of a run wait for each other; all of them ask."""
    if trainer.world_size == 1:
        yield Turns(trainer, lambda: None)
        return
    group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Turns(trainer, lambda: torch.distributed.barrier(group))
    finally:
        torch.distributed.destroy_process_group(group)
