"""Features of tiles to features of pictures: what the tiles of LLaVA-1.6 become on the way to the splice.

In: ``image_features`` ``(N, P, D)`` of all tiles, and an `ImageGrid` for each picture. Out: the image tokens of all
pictures ``(M, D)``, as many as the collator has made room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor, nn

from llava_pl.types import ImageGrid


def build_newline(width: int) -> nn.Parameter:
    """Return a fresh newline embedding ``(D,)``, drawn as the original draws it: deviation 1 / sqrt(D)."""
    return nn.Parameter(torch.randn(width) / width**0.5)


def merge_tiles(image_features: Tensor, grids: Sequence[ImageGrid], newline: Tensor) -> Tensor:
    """Return the image tokens of tiled pictures, one picture after the other.

    Of each picture first the tokens of its first tile, the whole picture; then, row by row, the map that its other
    tiles make together, without what was padding, each row closed by the newline embedding. (The original's
    `mm_patch_merge_type: spatial_unpad`.) All shapes are known on the CPU, so no device is waited for.

    Args:
        image_features: float ``(N, P, D)``, the tiles of all pictures in order; P is a square number.
        grids: One for each picture.
        newline: float ``(D,)``, cast to the dtype of the features.

    Returns:
        float ``(M, D)``.

    Raises:
        ValueError: The grids do not ask for exactly the tiles that are there.
    """
    sizes = [grid.num_tiles for grid in grids]
    if sum(sizes) != len(image_features):
        raise ValueError(f"anyres: {len(image_features)} tiles, but grids of {sum(sizes)}; expected equal numbers")
    newline = newline.to(image_features.dtype)
    pieces: list[Tensor] = []
    for grid, tiles in zip(grids, torch.split(image_features, sizes), strict=True):
        pieces += [tiles[0], _arrange(tiles[1:], grid, newline)]
    return torch.cat(pieces)


def _arrange(tiles: Tensor, grid: ImageGrid, newline: Tensor) -> Tensor:
    """Return the tokens ``(height * (width + 1), D)`` of tiles ``(rows * columns, P, D)``."""
    side = isqrt(tiles.shape[1])
    rows, columns = grid.rows * side, grid.columns * side
    # (tile row, tile column, patch row, patch column, D): patch rows go outside tile columns.
    features = tiles.reshape(grid.rows, grid.columns, side, side, -1).transpose(1, 2).reshape(rows, columns, -1)
    top, left = (rows - grid.height) // 2, (columns - grid.width) // 2
    features = features[top : top + grid.height, left : left + grid.width]
    return torch.cat([features, newline.expand(grid.height, 1, -1)], dim=1).flatten(0, 1)
