"""Samples to a batch: padding, an explicit mask, and a last count of pictures against image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Batch, InputError, Sample


def collate(
    samples: Sequence[Sample], *, pad_token_id: int, num_image_tokens: int, padding_side: Literal["left", "right"]
) -> Batch:
    """Return the padded batch of some samples.

    The mask says where padding is. It is never read off the ids: a pad token may be a real word of the text (LLaVA
    pads with `<unk>`, and drops real ones from attention).

    Args:
        samples: At least one.
        pad_token_id: Id at padding.
        num_image_tokens: P, the image tokens per picture.
        padding_side: "right" in training, "left" for generation.

    Raises:
        InputError: A sample's pictures and image tokens do not match; it is named.
    """
    batch = start_batch(samples, num_image_tokens=num_image_tokens)
    batch["input_ids"] = _pad([sample.input_ids for sample in samples], pad_token_id, padding_side)
    batch["labels"] = _pad([sample.labels for sample in samples], IGNORE_INDEX, padding_side)
    batch["attention_mask"] = _pad([torch.ones_like(sample.input_ids) for sample in samples], 0, padding_side)
    batch["num_supervised"] = count_supervised(batch["labels"])
    return batch


def start_batch(samples: Sequence[Sample], *, num_image_tokens: int) -> Batch:
    """Return what a batch of some samples holds whether their rows are padded or packed.

    Raises:
        InputError: A sample's pictures and image tokens do not match; it is named.
    """
    _check_images(samples, num_image_tokens)
    # Of the samples that show one picture the last one stands for all; every other one stands for itself.
    names = [number if sample.picture is None else sample.picture for number, sample in enumerate(samples)]
    shown = dict(zip(names, samples, strict=True))
    batch = Batch(
        ids=[sample.id for sample in samples],
        pixel_values=torch.cat([sample.pixel_values for sample in shown.values()]),
        num_tokens=sum(len(sample.input_ids) for sample in samples),
        num_pairs=sum(len(sample.input_ids) ** 2 for sample in samples),
    )
    features = [sample.patch_features for sample in shown.values() if sample.patch_features is not None]
    if features:
        batch["patch_features"] = torch.cat(features)
    if (table := samples[0].value_of_level) is not None:
        batch["value_of_level"] = table
    grids = [grid for sample in shown.values() for grid in sample.grids]
    if grids:
        batch["grids"] = grids
    if len(shown) < len(samples):
        with_picture = [name for name, sample in shown.items() if len(sample.pixel_values)]
        places = {name: place for place, name in enumerate(with_picture)}
        batch["pictures"] = [places.get(name, -1) for name in names]
    questions = [sample.question for sample in samples if sample.question is not None]
    if questions:
        batch["questions"] = questions
    skipped = [(sample.index, sample.skipped) for sample in samples if sample.skipped is not None]
    if skipped:
        batch["skipped"] = skipped
    indices = [sample.index for sample in samples if sample.index is not None]
    if len(indices) == len(samples):
        batch["indices"] = indices
    return batch


def count_supervised(labels: Tensor) -> int:
    """Return how many tokens of labels ``(B, T)`` the loss counts; a row's first has no predecessor to say it."""
    return int((labels[:, 1:] != IGNORE_INDEX).sum())


def _check_images(samples: Sequence[Sample], num_image_tokens: int) -> None:
    is_tiled = any(sample.grids for sample in samples)
    for sample in samples:
        expected, found = (
            sample.num_pictures * num_image_tokens,
            int((sample.input_ids == IMAGE_TOKEN_INDEX).sum()),
        )
        pictures = f"{sample.num_pictures} pictures of {num_image_tokens}"
        if is_tiled:
            expected = sum(grid.num_tokens(num_image_tokens) for grid in sample.grids)
            num_tiles = sum(grid.num_tiles for grid in sample.grids)
            pictures = f"{len(sample.grids)} tiled pictures"
            if num_tiles != len(sample.pixel_values):
                raise InputError(
                    f"sample {sample.id!r}: {len(sample.pixel_values)} tiles for {pictures}; expected {num_tiles}"
                )
        if expected != found:
            raise InputError(f"sample {sample.id!r}: {found} image tokens for {pictures}; expected {expected}")


def _pad(rows: Sequence[Tensor], value: int, side: Literal["left", "right"]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)
