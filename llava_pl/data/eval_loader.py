"""Questions and records to batches of one rank, in evaluation: each of them once, in order.

In: a dataset, and the place of this rank among all. Out: torch's own loader.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from llava_pl.data.sampler import EachOnceSampler
from llava_pl.types import Sample


def make_eval_loader(
    dataset: Dataset[Sample],
    *,
    batch_size: int,
    num_replicas: int,
    rank: int,
    num_workers: int,
    collate_fn: Any,  # noqa: ANN401
) -> DataLoader[Sample]:
    """Return the loader of one rank in evaluation: every sample once over all ranks, in order.

    Args:
        dataset: What is evaluated.
        batch_size: Samples in a batch at most; fewer where ranks would otherwise have unequally many batches.
        num_replicas: R, the ranks.
        rank: This one.
        num_workers: Processes that prepare samples.
        collate_fn: Samples to a batch, as torch's ``DataLoader`` takes it.
    """
    sampler = None
    if num_replicas > 1:
        sampler = EachOnceSampler(dataset, num_replicas=num_replicas, rank=rank)
        batch_size = sampler.fit_batch_size(batch_size)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate_fn,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )
