"""The order of training samples: a function of seed and epoch, which can be entered anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DistributedSampler


class ResumableSampler(DistributedSampler[int]):
    """A shuffled order in which ``start`` samples of this rank are already done.

    Also used on one device: Lightning tells it the epoch, and the order then depends on nothing else.
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        return iter(list(super().__iter__())[self.start :])
