"""Guards: a packed row that supervises a token across samples, shifts a position, or moves a picture."""

import pytest
import torch

from llava_pl.data.packing import pack
from llava_pl.types import ImageGrid, InputError, Sample

PICTURED = Sample(
    "a", torch.tensor([1, -200, -200, 7, 8]), torch.tensor([-100, -100, -100, 7, 8]), torch.full((1, 3, 2, 2), 0.5)
)
TEXT = Sample("b", torch.tensor([1, 9]), torch.tensor([1, 9]), torch.empty(0, 3, 2, 2))
PLAIN = Sample("c", torch.tensor([1, -200, -200]), torch.tensor([-100] * 3), torch.full((1, 3, 2, 2), 0.25))


def test_a_row():
    batch = pack([PICTURED, TEXT, PLAIN], num_image_tokens=2)
    assert batch["input_ids"].tolist() == [[1, -200, -200, 7, 8, 1, 9, 1, -200, -200]]
    # The first token of b is not supervised any more: what stands before it is another sample.
    assert batch["labels"].tolist() == [[-100, -100, -100, 7, 8, -100, 9, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1, 2]]
    assert (batch["sequence_lengths"], batch["num_pairs"]) == ([5, 2, 3], 25 + 4 + 9)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0.5, 0.25]
    assert (batch["ids"], batch["num_tokens"], batch["num_supervised"]) == (["a", "b", "c"], 10, 3)
    assert "attention_mask" not in batch


def test_a_row_of_tiled_pictures():
    grid = ImageGrid(1, 1, height=1, width=1)
    ids = torch.tensor([1, -200, -200, -200, 7])
    tiled = Sample("t", ids, ids.masked_fill(ids < 0, -100), torch.zeros(2, 3, 2, 2), grids=(grid,))
    batch = pack([TEXT, tiled, tiled], num_image_tokens=1)
    assert batch["grids"] == [grid, grid]
    assert batch["sequence_lengths"] == [2, 5, 5]
    assert batch["input_ids"].tolist() == [[1, 9, *ids.tolist(), *ids.tolist()]]


def test_the_samples_stay_as_they_are():
    pack([PICTURED, TEXT], num_image_tokens=2)
    assert TEXT.labels.tolist() == [1, 9]


def test_pictures_are_counted():
    with pytest.raises(InputError, match="sample 'a': 2 image tokens for 1 pictures of 3; expected 3"):
        pack([TEXT, PICTURED], num_image_tokens=3)
