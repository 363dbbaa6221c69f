"""Picture to tiles, and to the number of its image tokens: `image_aspect: anyres` of LLaVA-1.6.

In: an upright RGB picture, or its size alone. Out: square pictures for the image transform, and the `ImageGrid` that
tells the model how their features go together. Nothing here looks at pixels to count tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isqrt
from pathlib import Path

from PIL import Image

from llava_pl.data.image import ImageTransform
from llava_pl.types import ImageGrid, InputError, RecordError

DEFAULT_SHAPES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""Columns and rows of tiles of LLaVA-1.6; at 336 pixels its 336x672, 672x336, 672x672, 1008x336 and 336x1008."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How pictures are cut into tiles.

    Args:
        image_size: Height and width of a tile: what the vision encoder reads, in pixels.
        num_image_tokens: P, the image tokens of a tile.
        pinpoints: Sizes (width, height) to which pictures are enlarged or shrunk, of which each takes the one that
            shows most of it; `default_pinpoints` for LLaVA-1.6's.

    Raises:
        InputError: There are no such sizes, one is no multiple of the tile, or a tile's features are no square map.
    """

    image_size: int
    num_image_tokens: int
    pinpoints: Sequence[tuple[int, int]]

    def __post_init__(self) -> None:
        """Refuse what no picture could be cut by."""
        size = self.image_size
        if not self.pinpoints or any(side < size or side % size for pair in self.pinpoints for side in pair):
            raise InputError(
                f"grid_pinpoints: expected pairs of width and height, each a multiple of the vision encoder's {size} "
                f"pixels, found {[list(pair) for pair in self.pinpoints]}; correct them"
            )
        if self.side**2 != self.num_image_tokens:
            raise InputError(
                f"image_aspect anyres: expected a square number of image tokens per tile, found "
                f"{self.num_image_tokens}; set model.vision_encoder.select_feature to patch"
            )

    @property
    def side(self) -> int:
        """Patches beside each other in a tile."""
        return isqrt(self.num_image_tokens)

    def choose_pinpoint(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size to which a picture is brought: that with most pixels of the picture, then with least padding.

        Of equals the first; so the order of the sizes matters.

        Args:
            size: Width and height of the picture.

        Raises:
            RecordError: The picture is so elongated that nothing of it would be left.

        >>> Tiling(336, 576, default_pinpoints(336)).choose_pinpoint((640, 480))
        (672, 672)
        """
        width, height = size

        def score(pinpoint: tuple[int, int]) -> tuple[int, int]:
            # LLaVA: in floats, which now and then lose a pixel; whole numbers would choose otherwise for some pictures.
            scale = min(pinpoint[0] / width, pinpoint[1] / height)
            num_pixels = min(int(width * scale) * int(height * scale), width * height)
            return num_pixels, num_pixels - pinpoint[0] * pinpoint[1]

        best = max(self.pinpoints, key=score)
        # Unlike LLaVA, which shows of such a picture the squeezed whole alone.
        if score(best)[0] == 0:
            raise RecordError(
                f"picture of {width} x {height} pixels: too elongated for image_aspect anyres: expected its shorter "
                "side to be at least one pixel once it fits one of the grid_pinpoints; crop it, or leave it out",
                "picture_broken",
            )
        return best

    def grid(self, size: tuple[int, int]) -> ImageGrid:
        """Return the grid of a picture of some width and height.

        Raises:
            RecordError: As `choose_pinpoint`.

        >>> Tiling(336, 576, default_pinpoints(336)).grid((640, 480))
        ImageGrid(rows=2, columns=2, height=36, width=48)
        """
        width, height = size
        columns, rows = (pixels // self.image_size for pixels in self.choose_pinpoint(size))
        map_width, map_height = columns * self.side, rows * self.side
        # Unlike LLaVA, whose floats come to rest below a whole number for one size in 20,000 and then cut off two rows
        # or columns more: whole numbers, as transformers has it by rounding. Half of the padding is cut on either
        # side; of an odd number of rows one stays.
        if width * map_height > height * map_width:
            padding = (map_height - height * map_width // width) // 2
            return ImageGrid(rows, columns, map_height - 2 * padding, map_width)
        padding = (map_width - width * map_height // height) // 2
        return ImageGrid(rows, columns, map_height, map_width - 2 * padding)

    def cut(self, picture: Image.Image) -> list[Image.Image]:
        """Return the tiles of an RGB picture, each ``image_size`` wide and high.

        First the whole picture, squeezed to a square; then, from left to right and top to bottom, the parts of the
        picture as it lies in the middle of its pinpoint, with black around it.

        Raises:
            RecordError: As `choose_pinpoint`.
        """
        width, height = self.choose_pinpoint(picture.size)
        scale_x, scale_y = width / picture.width, height / picture.height
        if scale_x < scale_y:
            inner = (width, min(ceil(picture.height * scale_x), height))
        else:
            inner = (min(ceil(picture.width * scale_y), width), height)
        canvas = Image.new("RGB", (width, height))
        corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        canvas.paste(picture.resize(inner, Image.Resampling.BICUBIC), corner)
        side = self.image_size
        corners = [(left, top) for top in range(0, height, side) for left in range(0, width, side)]
        return [
            picture.resize((side, side), Image.Resampling.BICUBIC),
            *(canvas.crop((left, top, left + side, top + side)) for left, top in corners),
        ]


def default_pinpoints(image_size: int) -> list[tuple[int, int]]:
    """Return LLaVA-1.6's sizes for tiles of some size.

    >>> default_pinpoints(336)
    [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    """
    return [(columns * image_size, rows * image_size) for columns, rows in DEFAULT_SHAPES]


def choose_tiling(
    image_aspect: str, pinpoints: Sequence[tuple[int, int]] | None, image_processor: str | Path, num_image_tokens: int
) -> Tiling | None:
    """Return the tiling that a data module's settings ask for, None where pictures stay whole.

    Args:
        image_aspect: "anyres" for tiles.
        pinpoints: As for `Tiling`; `default_pinpoints` when None.
        image_processor: Folder or hub name of the vision encoder, which says how large a tile is.
        num_image_tokens: P, the image tokens of a tile.

    Raises:
        InputError: There are pinpoints but no tiles, or as `Tiling`.
    """
    if image_aspect != "anyres":
        if pinpoints is not None:
            raise InputError(f"data.grid_pinpoints: found {image_aspect!r} as data.image_aspect; expected 'anyres'")
        return None
    image_size = ImageTransform.from_pretrained(image_processor).image_size
    return Tiling(image_size, num_image_tokens, default_pinpoints(image_size) if pinpoints is None else pinpoints)
