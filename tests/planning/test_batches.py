"""Guards: a dry run on batches of another shape than the data modules make."""

import torch

from llava_pl.data.collate import collate
from llava_pl.data.packing import pack
from llava_pl.planning.batches import BatchShape, make_batch
from llava_pl.types import IMAGE_TOKEN_INDEX, ImageGrid, Sample


def sample(num_tiles=1, num_image_tokens=4, grids=()):
    ids = torch.tensor([1, *[IMAGE_TOKEN_INDEX] * num_image_tokens, 5, 6, 7])
    return Sample(id="a", input_ids=ids, labels=ids, pixel_values=torch.zeros(num_tiles, 3, 16, 16), grids=grids)


def shapes(batch):
    return {key: (value.shape, value.dtype) for key, value in batch.items() if isinstance(value, torch.Tensor)}


def test_padded():
    real = collate([sample()] * 3, pad_token_id=0, num_image_tokens=4, padding_side="right")
    assert shapes(make_batch(BatchShape(3, 8, 3), image_size=16)) == shapes(real)


def test_packed():
    real = pack([sample()] * 3, num_image_tokens=4)
    made = make_batch(BatchShape(3, 8, 3, is_packed=True), image_size=16)
    assert shapes(made) == shapes(real)
    assert made["sequence_lengths"] == real["sequence_lengths"]


def test_tiled():
    grid = ImageGrid(rows=1, columns=2, height=2, width=4)
    tokens = grid.num_tokens(4)
    real = collate([sample(3, tokens, (grid,))] * 2, pad_token_id=0, num_image_tokens=4, padding_side="right")
    shape = BatchShape(2, 4 + tokens, 3, grid)
    made = make_batch(shape, image_size=16)
    assert shapes(made) == shapes(real)
    assert made["grids"] == real["grids"]
    assert (shape.num_tiles, shape.count_image_tokens(4)) == (6, 2 * tokens)
