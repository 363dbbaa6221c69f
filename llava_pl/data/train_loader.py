"""Records to batches of one rank, in training: in an order that seed and epoch alone decide.

In: a dataset, what is known of the lengths of its samples, and the place of this rank among all. Out: a `StepLoader`,
whose batches know the supervised tokens of their whole step.
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from llava_pl.data.collate import collate
from llava_pl.data.dataset import RecordDataset
from llava_pl.data.loader import StepLoader
from llava_pl.data.ordering import Grouping
from llava_pl.data.packing import PackedDataset, pack
from llava_pl.data.sampler import PackedSampler, ResumableSampler, check_budget, count_epochs
from llava_pl.data.training_data import GivenRecords, TrainingData

if TYPE_CHECKING:
    from lightning import Trainer


def make_train_loader(
    dataset: RecordDataset,
    data: TrainingData | GivenRecords,
    *,
    batch_size: int,
    seed: int,
    grouping: Grouping,
    is_packed: bool,
    token_budget: int | None,
    num_workers: int,
    trainer: Trainer | None,
) -> StepLoader:
    """Return the loader of one rank in training.

    Args:
        dataset: The samples of an epoch.
        data: What an epoch holds, which knows the lengths of these samples.
        batch_size: Samples in a micro batch, in packed rows on average.
        seed: Of the order, together with the epoch.
        grouping: How samples are ordered.
        is_packed: Put the samples of a micro batch into a single row.
        token_budget: The most positions of a micro batch; None for any number.
        num_workers: Processes that prepare samples.
        trainer: Knows the ranks and the micro batches of a step, which may change on the way; None for one of each.

    Raises:
        InputError: A micro batch is larger than the budget.
    """
    sampler = make_sampler(
        dataset,
        data,
        num_replicas=trainer.world_size if trainer else 1,
        rank=trainer.global_rank if trainer else 0,
        batch_size=batch_size,
        num_micro_batches=trainer.accumulate_grad_batches if trainer else 1,
        seed=seed,
        grouping=grouping,
        is_packed=is_packed,
    )
    if token_budget is not None:
        num_epochs = count_epochs(trainer.max_epochs, trainer.max_steps, sampler) if trainer else 1
        check_budget(sampler, token_budget, num_tokens=data.num_tokens.tolist(), epochs=range(num_epochs))
    encoder = dataset.encoder
    to_rows = partial(collate, pad_token_id=encoder.tokenizer.pad_token_id, padding_side="right")
    return StepLoader(
        PackedDataset(dataset) if is_packed else dataset,
        batch_size=None if is_packed else batch_size,
        sampler=sampler,
        collate_fn=partial(pack if is_packed else to_rows, num_image_tokens=encoder.num_image_tokens),
        count_micro_batches=lambda: trainer.accumulate_grad_batches if trainer else 1,
        count_batches=lambda: trainer.num_training_batches if trainer else inf,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def make_sampler(
    dataset: Dataset[Any],
    data: TrainingData | GivenRecords,
    *,
    num_replicas: int,
    rank: int,
    batch_size: int,
    num_micro_batches: int,
    seed: int,
    grouping: Grouping,
    is_packed: bool,
) -> ResumableSampler:
    """Return the training order of one rank.

    Args:
        dataset: The samples of an epoch, of which only the number counts.
        data: What knows their lengths.
        num_replicas: All ranks.
        rank: This one.
        batch_size: As for `make_train_loader`, as are the others.
        num_micro_batches: Micro batches of a step.
        seed: Of the order.
        grouping: How samples are ordered.
        is_packed: Whether they share rows.
    """
    return (PackedSampler if is_packed else ResumableSampler)(
        dataset,
        num_replicas=num_replicas,
        rank=rank,
        seed=seed,
        grouping="balanced" if is_packed else grouping,
        micro_batch_size=batch_size,
        num_micro_batches=num_micro_batches,
        lengths=partial(measure_samples, data, grouping),
    )


def measure_samples(data: TrainingData | GivenRecords, grouping: Grouping) -> list[int]:
    """Return what a grouping goes by for each sample of an epoch, words or tokens."""
    lengths: list[int] = (data.num_words if grouping == "modality_length" else data.num_tokens).tolist()
    return lengths
