"""Questions and records to batches of one rank, in evaluation: each of them once.

In: a dataset, and the place of this rank among all. Out: torch's own loader.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from llava_pl.data.question_dataset import QuestionDataset
from llava_pl.data.sampler import EachOnceSampler
from llava_pl.types import IGNORE_INDEX, Sample


def make_eval_loader(
    dataset: Dataset[Sample],
    *,
    batch_size: int,
    num_replicas: int,
    rank: int,
    num_workers: int,
    collate_fn: Any,  # noqa: ANN401
    limit: int | float = 1.0,
    done: Collection[int] = (),
) -> DataLoader[Sample]:
    """Return the loader of one rank in evaluation: every sample once over all ranks.

    Records come in order, questions in that of `QuestionDataset.order`.

    Args:
        dataset: What is evaluated.
        batch_size: Samples in a batch at most; fewer where ranks would otherwise have unequally many batches.
        num_replicas: R, the ranks.
        rank: This one.
        num_workers: Processes that prepare samples.
        collate_fn: Samples to a batch, as torch's ``DataLoader`` takes it.
        limit: The trainer's limit of batches per rank, or a share of them: of a set that is not gone through whole,
            the first questions are asked, not the longest.
        done: Places of questions that were answered before; the same on all ranks.
    """
    sampler, order = None, None
    if isinstance(dataset, QuestionDataset):
        num_batches = ceil(len(dataset) / batch_size / num_replicas)
        num_asked = int(num_batches * limit) if isinstance(limit, float) else limit
        num_first = num_asked * batch_size * num_replicas
        order = dataset.order(num_first)
        if done:
            # One is asked again where none is left: Lightning ends no evaluation that has no batch.
            order = [place for place in order[:num_first] if place not in done] or order[:1]
    if num_replicas > 1 or order is not None:
        sampler = EachOnceSampler(dataset, num_replicas=num_replicas, rank=rank, batch_size=batch_size, order=order)
        dataset, batch_size = _Filled(dataset), sampler.batch_size
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate_fn,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


class _Filled(Dataset[Sample]):
    """A dataset that goes on behind its end with its samples again, in which nothing is supervised.

    A question is asked again: one answer of each counts.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset
        self._num_samples = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not promise a length

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Sample:
        if index < self._num_samples:
            return self.dataset[index]
        sample = self.dataset[index - self._num_samples]
        return replace(sample, labels=torch.full_like(sample.labels, IGNORE_INDEX), skipped=None)
