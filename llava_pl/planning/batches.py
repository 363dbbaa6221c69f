"""The size of a micro batch, and a batch of that size that holds nothing but its shapes.

In: what is known of the samples. Out: a `BatchShape`, and from it a `Batch` for a dry run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from llava_pl.models.work import BatchCounts
from llava_pl.types import Batch, ImageGrid


@dataclass(frozen=True, slots=True)
class BatchShape:
    """A micro batch, as far as memory and work depend on it.

    Args:
        num_samples: Its samples, each with a picture.
        length: T, the positions of each; with `is_packed` they stand in one row.
        num_supervised: Supervised tokens of each sample.
        grid: How each picture is tiled; None where pictures stay whole.
        is_packed: Whether the samples share a row.
    """

    num_samples: int
    length: int
    num_supervised: int
    grid: ImageGrid | None = None
    is_packed: bool = False

    def of(self, num_samples: int) -> BatchShape:
        """Return the same with another number of samples."""
        return replace(self, num_samples=num_samples)

    @property
    def num_tiles(self) -> int:
        """Pictures that the vision encoder sees."""
        return self.num_samples * (1 if self.grid is None else self.grid.num_tiles)

    @property
    def num_positions(self) -> int:
        """Positions that the decoder sees."""
        return self.num_samples * self.length

    @property
    def counts(self) -> BatchCounts:
        """What its operations depend on."""
        return BatchCounts(
            num_tiles=self.num_tiles,
            num_positions=self.num_positions,
            num_pairs=self.num_samples * self.length**2,
            num_supervised=self.num_samples * self.num_supervised,
        )

    def count_image_tokens(self, num_image_tokens: int) -> int:
        """Return the positions that pictures fill, where a tile has P = ``num_image_tokens``."""
        each = num_image_tokens if self.grid is None else self.grid.num_tokens(num_image_tokens)
        return self.num_samples * each


def make_batch(shape: BatchShape, *, image_size: int) -> Batch:
    """Return a batch whose tensors have the shapes that the data modules' have; what they hold means nothing.

    Args:
        shape: Its size.
        image_size: Height and width of what the vision encoder reads, in pixels.
    """
    rows, length = (1, shape.num_positions) if shape.is_packed else (shape.num_samples, shape.length)
    batch = Batch(
        ids=[],
        pixel_values=torch.empty(shape.num_tiles, 3, image_size, image_size),
        num_tokens=shape.num_positions,
        input_ids=torch.empty(rows, length, dtype=torch.long),
        labels=torch.empty(rows, length, dtype=torch.long),
        num_supervised=shape.num_samples * shape.num_supervised,
    )
    if shape.grid is not None:
        batch["grids"] = [shape.grid] * shape.num_samples
    if shape.is_packed:
        batch["sequence_lengths"] = [shape.length] * shape.num_samples
        batch["position_ids"] = torch.empty(rows, length, dtype=torch.long)
    else:
        batch["attention_mask"] = torch.empty(rows, length, dtype=torch.long)
    return batch
