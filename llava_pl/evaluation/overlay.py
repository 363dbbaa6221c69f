"""A picture with a map drawn over it: bright where the values are high, dark where they are low.

In: a picture, a map of `looking.py`, and the part of the picture that the map covers. Out: a picture to show.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

LONG_SIDE = (560, 1600)
"""Pixels of the longer side: smaller pictures are enlarged, so that a map can be seen on them, larger ones shrunk."""


def draw_overlay(
    picture: Image.Image, values: Tensor, seen: tuple[float, float, float, float], *, top: float | None = None
) -> Image.Image:
    """Return the picture with a map over it, RGB.

    Args:
        picture: RGB.
        values: float ``(rows, columns)``, at least 0.
        seen: Left, top, right and bottom of what the map covers, in the picture's pixels (`ImageTransform.find_seen`).
            The rest of the picture becomes grey: the model has not seen it.
        top: The value of the brightest colour; None for the highest value.
    """
    from matplotlib import colormaps  # not at the top: it takes a third of a second

    long = max(picture.size)
    scale = min(max(long, LONG_SIDE[0]), LONG_SIDE[1]) / long
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    left, upper, right, lower = (round(side * scale) for side in seen)
    highest = float(values.max()) if top is None else top
    share = (values / highest if highest > 0 else values).clamp(0, 1).numpy().astype(np.float32)
    # Nearest first: the middle of a patch keeps its value, and edges of patches are soft.
    # Patch by patch, as the model sees: a smooth map would show places that it does not tell apart.
    spread = Image.fromarray(share).resize((max(1, right - left), max(1, lower - upper)), Image.Resampling.NEAREST)
    heat = Image.new("F", size, -1.0)
    heat.paste(spread, (left, upper))
    is_seen, levels = np.asarray(heat)[..., None] >= 0, np.asarray(heat).clip(0, 1)
    colours = colormaps["inferno"](levels)[..., :3].astype(np.float32)
    base = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
    grey = base.mean(axis=2, keepdims=True)
    strength = (0.35 + 0.2 * levels)[..., None]
    mixed = np.where(is_seen, (1 - strength) * base + strength * colours, 0.5 + 0.3 * (grey - 0.5))
    return Image.fromarray((mixed * 255).round().clip(0, 255).astype(np.uint8))
