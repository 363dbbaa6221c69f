"""RGB picture -> pixel values: what a CLIP or SigLIP processor computes, bit for bit, in half its time.

In: the picture that `data/image.py` has read, and the processor whose settings count. Out: its levels, uint8
``(3, H, W)``, and the table that gives their values, float32 ``(3, 256)``. Workers hand on these two, a quarter of the
bytes; `look_up_pixels` makes ``pixel_values`` of them where the model runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from PIL import Image

from llava_pl.types import Batch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


def centre_on_canvas(picture: Image.Image, size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    """Return an RGB picture in the middle of a canvas.

    Of an odd number of rows (columns) to add, the extra one goes below (to the right).

    Args:
        picture: Not larger than the canvas.
        size: Width and height of the canvas, in pixels.
        colour: Red, green and blue of the canvas, 0 to 255.
    """
    canvas = Image.new("RGB", size, colour)
    canvas.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return canvas


def look_up(levels: Tensor, value_of_level: Tensor) -> Tensor:
    """Return the value of each level, ``(..., 3, H, W)`` in the dtype of the table.

    A table, not arithmetic: a device may round a product and a sum otherwise than the processor did.

    Args:
        levels: uint8 ``(..., 3, H, W)``.
        value_of_level: The value of each level of each channel, ``(3, 256)``.
    """
    first = torch.arange(0, value_of_level.numel(), 256, dtype=torch.int32, device=levels.device).view(3, 1, 1)
    # Several times as fast on a CPU as `torch.take`, which asks for indices of 64 bits.
    return value_of_level.flatten().index_select(0, (levels + first).flatten()).view(levels.shape)


def look_up_pixels(batch: Batch) -> Batch:
    """Return a batch whose ``pixel_values`` are values, whether its loader handed on levels or values.

    They are float32, or of the dtype that a trainer in half precision has turned the table to: as it would turn them.
    """
    if "value_of_level" not in batch:
        return batch
    rest = {name: value for name, value in batch.items() if name != "value_of_level"}
    return cast("Batch", {**rest, "pixel_values": look_up(batch["pixel_values"], batch["value_of_level"])})


class ClipPixels:
    """Turns RGB pictures into the pixel values that a processor gives.

    CLIP's brings the shortest edge to a size and crops the middle, SigLIP's squeezes the picture into a square. Both
    resize with Pillow too, but rescale and normalise each of the 3 x H x W values in several passes of float64 and
    float32. A channel has only 256 levels: here the processor itself computes the values of these once, and a picture
    looks them up.

    Rare settings (other sizes, no centre crop, padding) go through the processor itself, and have no levels.

    Args:
        processor: Its settings are read once; later changes do not count.
    """

    def __init__(self, processor: CLIPImageProcessorPil) -> None:
        self.processor = processor
        self.resample = processor.resample
        size, crop = dict(processor.size), dict(processor.crop_size or {})
        self.squeezes = not processor.do_center_crop
        edge = size.get("height") if self.squeezes else size.get("shortest_edge")
        self.edge = edge if processor.do_resize else None
        self.crop_size = None if self.squeezes else (crop["width"], crop["height"])
        is_clip = not self.squeezes and (not processor.do_resize or size.keys() == {"shortest_edge"})
        is_siglip = self.squeezes and processor.do_resize and size == {"height": edge, "width": edge}
        self.is_known = bool((is_clip or is_siglip) and not getattr(processor, "do_pad", None))
        grey_levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        values = processor.preprocess(
            grey_levels.convert("RGB"), do_resize=False, do_center_crop=False, do_pad=False, return_tensors="np"
        )["pixel_values"]
        self.value_of_level = torch.from_numpy(np.ascontiguousarray(values[0, :, 0]))
        """The value of each level of each channel, float32 ``(3, 256)``."""

    def __call__(self, picture: Image.Image, pad_colour: tuple[int, int, int] | None = None) -> Tensor:
        """Return the pixel values of an RGB picture.

        Args:
            picture: In RGB, without a note of transparency in its ``info``.
            pad_colour: Fill the picture to a square with this colour first; None leaves its shape.
        """
        if not self.is_known:
            if pad_colour is not None:
                picture = centre_on_canvas(picture, (max(picture.size),) * 2, pad_colour)
            pixel_values: Tensor = self.processor.preprocess(picture, return_tensors="pt")["pixel_values"][0]
            return pixel_values
        return look_up(self.levels(picture, pad_colour), self.value_of_level)

    def levels(self, picture: Image.Image, pad_colour: tuple[int, int, int] | None = None) -> Tensor:
        """Return the levels of a resized RGB picture, uint8 ``(3, H, W)``; only with settings that are known.

        Args:
            picture: As for a call.
            pad_colour: Likewise.
        """
        picture = self._crop(self._resize(picture, pad_colour))
        return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())

    def _resize(self, picture: Image.Image, pad_colour: tuple[int, int, int] | None) -> Image.Image:
        side, edge = max(picture.size), self.edge
        if pad_colour is not None and picture.width != picture.height:
            if edge is not None and picture.width > picture.height:
                # Pillow resamples along the rows first, then along the columns, each on its own. A row of one colour
                # comes out in that colour, so that what is added above and below needs no first pass.
                picture = picture.resize((edge, picture.height), self.resample)
                return centre_on_canvas(picture, (edge, side), pad_colour).resize((edge, edge), self.resample)
            picture = centre_on_canvas(picture, (side, side), pad_colour)
        if edge is None:
            return picture
        if self.squeezes:
            return picture.resize((edge, edge), self.resample)
        long_edge = int(edge * max(picture.size) / min(picture.size))
        size = (edge, long_edge) if picture.width <= picture.height else (long_edge, edge)
        return picture.resize(size, self.resample)

    def _crop(self, picture: Image.Image) -> Image.Image:
        """Return the middle of a picture; what lies outside of it is black."""
        if self.crop_size is None or picture.size == self.crop_size:
            return picture
        width, height = self.crop_size
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))
