"""Samples to a packed batch: one row, one sample after the other, nothing padded.

In: the samples of a micro batch. Out: a `Batch` of a single row that says where its samples end; attention stays within
each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from llava_pl.data.collate import count_supervised, start_batch
from llava_pl.data.dataset import RecordDataset
from llava_pl.types import IGNORE_INDEX, Batch, Sample


def pack(samples: Sequence[Sample], *, num_image_tokens: int) -> Batch:
    """Return some samples as one row.

    The loss of each sample is what it would be in a row of its own. There is no mask; `sequence_lengths` takes its
    place, and `position_ids` start again with each sample.

    Args:
        samples: At least one, each of at least one token.
        num_image_tokens: P, the image tokens per picture.

    Raises:
        InputError: A sample's pictures and image tokens do not match; it is named.
    """
    batch = start_batch(samples, num_image_tokens=num_image_tokens)
    lengths = [len(sample.input_ids) for sample in samples]
    labels = torch.cat([sample.labels for sample in samples])
    # A sample's first token has no predecessor; here the last token of the sample before it would pass for one.
    labels[torch.tensor([0, *lengths[:-1]]).cumsum(dim=0)] = IGNORE_INDEX
    batch["input_ids"] = torch.cat([sample.input_ids for sample in samples])[None]
    batch["labels"] = labels[None]
    batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    batch["sequence_lengths"] = lengths
    batch["num_supervised"] = count_supervised(batch["labels"])
    return batch


class PackedDataset(Dataset[list[Sample]]):
    """The samples of a dataset by lists of indices, as a loader of packed rows asks for them."""

    def __init__(self, dataset: RecordDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, indices: Sequence[int]) -> list[Sample]:
        return [self.dataset[index] for index in indices]
