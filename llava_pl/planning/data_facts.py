"""The data module of a run to the lengths of its samples, and to the largest micro batch that it will make.

In: a data module that has read nothing. Out: `DataFacts`. Where the records are there they are read and counted as
`fit` does it, once and into the cache; where they are not, samples are taken to be as long as they may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.sampler import ResumableSampler, check_budget, count_epochs
from llava_pl.data.train_loader import make_sampler
from llava_pl.types import InputError


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known of the samples of an epoch.

    Args:
        num_samples: How many there are; None where nobody knows.
        mean_length: Positions of a sample, on average.
        longest: Of the longest one.
        batch_length: Positions of a row in the micro batch that has the most, its padding among them.
        mean_supervised: Supervised tokens of a sample, on average.
        batch_supervised: Of a sample in a micro batch of those that have the most.
        padding: Share of the positions of an epoch that hold nothing.
        unknown: Why the records could not be read; None where they were.
        is_refused: Whether they are here, and `fit` would refuse them, too.
    """

    num_samples: int | None
    mean_length: float
    longest: int
    batch_length: int
    mean_supervised: float
    batch_supervised: int
    padding: float
    unknown: str | None = None
    is_refused: bool = False


def read_facts(
    data: ConversationDataModule,
    *,
    max_length: int,
    num_image_tokens: int,
    num_ranks: int,
    num_micro_batches: int,
    num_samples: int | None = None,
    mean_length: float | None = None,
) -> DataFacts:
    """Return what is known of the data of a run.

    Args:
        data: Its data module.
        max_length: The most positions of a sample.
        num_image_tokens: Those of a picture.
        num_ranks: Devices in all.
        num_micro_batches: Micro batches of a step and device.
        num_samples: Samples of an epoch, where the records are not here.
        mean_length: Positions of a sample on average, likewise.
    """
    is_here = False
    try:
        data.train_sources()  # refuses files that are not there
        is_here = True
        data.open_train_data()
        if not data.train_records:
            raise InputError("data: no records to train on; give the data module a training file")
    except InputError as error:
        text = max(1, max_length - num_image_tokens)
        return DataFacts(
            num_samples=num_samples,
            mean_length=mean_length or max_length,
            longest=max_length,
            batch_length=max_length,
            # Nobody knows what is asked and what is answered: as if all text were.
            mean_supervised=max(1.0, (mean_length or max_length) - num_image_tokens),
            batch_supervised=text,
            padding=0.0,
            unknown=str(error),
            is_refused=is_here,
        )
    lengths = data.train_data.num_tokens
    supervised = np.sort(getattr(data.train_data, "num_supervised", lengths))
    size = min(data.batch_size, len(lengths))
    sampler = _sampler(data, num_ranks, num_micro_batches)
    positions = list(sampler.count_positions(lengths.tolist()))
    # The first samples are repeated at the end of an epoch, so that ranks share it equally.
    useful = float(lengths.mean()) * sampler.total_size
    return DataFacts(
        num_samples=len(lengths),
        mean_length=float(lengths.mean()),
        longest=int(lengths.max()),
        batch_length=ceil(max(positions) / size),
        mean_supervised=float(supervised.mean()),
        batch_supervised=ceil(float(supervised[-size:].mean())),
        padding=max(0.0, 1 - useful / sum(positions)),
    )


def find_excess(
    data: ConversationDataModule, *, num_ranks: int, num_micro_batches: int, max_epochs: int | None, max_steps: int
) -> str | None:
    """Return what `fit` would say of a micro batch that is over `data.token_budget`; None if there is none.

    Args:
        data: Whose records were read.
        num_ranks: Devices in all.
        num_micro_batches: Micro batches of a step and device.
        max_epochs: Of the trainer.
        max_steps: Of the trainer.
    """
    if data.token_budget is None or not data.train_records:
        return None
    sampler = _sampler(data, num_ranks, num_micro_batches)
    epochs = range(count_epochs(max_epochs, max_steps, sampler))
    try:
        check_budget(sampler, data.token_budget, num_tokens=data.train_data.num_tokens.tolist(), epochs=epochs)
    except InputError as error:
        return str(error)
    return None


def _sampler(data: ConversationDataModule, num_ranks: int, num_micro_batches: int) -> ResumableSampler:
    return make_sampler(
        data.make_dataset(data.train_data),
        data.train_data,
        num_replicas=num_ranks,
        rank=0,
        batch_size=data.batch_size,
        num_micro_batches=num_micro_batches,
        seed=data.seed,
        grouping=data.grouping,
        is_packed=data.is_packed,
    )
