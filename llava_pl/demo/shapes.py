"""Scenes of coloured shapes, and the pictures drawn of them.

First step of the demo: a seed comes in; scenes, which are the truth that questions are asked about, and 48 x 48
pictures go out. A scene is a 3 x 3 grid of cells, and a picture cut into patches of 16 pixels has one patch per cell.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = ("square", "circle", "triangle")
COLOURS = {"red": (215, 45, 45), "green": (45, 165, 65), "blue": (50, 80, 215), "yellow": (225, 205, 50)}
CELLS = ("top-left", "top", "top-right", "left", "centre", "right", "bottom-left", "bottom", "bottom-right")
"""Names of the cells in reading order; cell ``i`` is in row ``i // 3`` and column ``i % 3``."""

COUNTS = (1, 2)
"""How many shapes a scene may hold."""

CELL_PIXELS = 16
PICTURE_PIXELS = 3 * CELL_PIXELS

_HELD_OUT_ONE_IN = 8


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One coloured shape in one cell.

    Args:
        cell: Index into CELLS.
        kind: One of KINDS.
        colour: One of the names in COLOURS.
    """

    cell: int
    kind: str
    colour: str

    @property
    def name(self) -> str:
        """Colour and kind, as in ``red square``."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: shapes in the order of their cells.

    Args:
        shapes: No two share a cell or a name, and at least one kind occurs once, so that every kind of question has
            a subject that is not ambiguous.
    """

    shapes: tuple[Shape, ...]

    @property
    def singles(self) -> tuple[Shape, ...]:
        """The shapes that are the only ones of their kind."""
        count = Counter(shape.kind for shape in self.shapes)
        return tuple(shape for shape in self.shapes if count[shape.kind] == 1)

    @property
    def is_held_out(self) -> bool:
        """Whether this scene is kept for evaluation.

        A property of the scene itself, one in eight by a hash of its text: whatever the seed and the sizes, no held-out
        scene is ever drawn for training, not even with another jitter.
        """
        text = "; ".join(f"{shape.name} {shape.cell}" for shape in self.shapes)
        return hashlib.sha256(text.encode()).digest()[0] % _HELD_OUT_ONE_IN == 0


def sample_scene(rng: np.random.Generator, *, held_out: bool) -> Scene:
    """Draw a scene; the number of shapes is uniform over COUNTS, the rest uniform over what Scene allows.

    Args:
        rng: Source of chance; advanced.
        held_out: Draw from the scenes kept for evaluation, or from all the others.
    """
    count = int(rng.choice(COUNTS))
    names = [(kind, colour) for kind in KINDS for colour in COLOURS]
    while True:
        cells = sorted(rng.permutation(len(CELLS))[:count].tolist())
        picked = [names[i] for i in rng.permutation(len(names))[:count]]
        scene = Scene(tuple(Shape(cell, *name) for cell, name in zip(cells, picked, strict=True)))
        if scene.singles and scene.is_held_out == held_out:
            return scene


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a scene with jitter in shade, place, size and colour.

    A shape keeps inside its cell and covers the middle of it.

    Args:
        scene: What to draw.
        rng: Source of the jitter; advanced by an amount that depends on the number of shapes alone.

    Returns:
        RGB picture, uint8 ``(PICTURE_PIXELS, PICTURE_PIXELS, 3)``.
    """
    shape = (PICTURE_PIXELS, PICTURE_PIXELS, 3)
    picture = rng.integers(100, 150) + rng.integers(-8, 9, size=shape)
    ys, xs = np.mgrid[:CELL_PIXELS, :CELL_PIXELS] - (CELL_PIXELS - 1) / 2
    for item in scene.shapes:
        shift_y, shift_x = rng.uniform(-1.0, 1.0, size=2)
        radius = rng.uniform(5.5, 6.75)
        inside = _inside(item.kind, ys - shift_y, xs - shift_x, radius)
        row, column = divmod(item.cell, 3)
        cell = picture[row * CELL_PIXELS :, column * CELL_PIXELS :][:CELL_PIXELS, :CELL_PIXELS]
        cell[inside] = np.array(COLOURS[item.colour]) + rng.integers(-20, 21, size=3)
    return picture.clip(0, 255).astype(np.uint8)


def _inside(kind: str, ys: NDArray[np.float64], xs: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Mask of the pixels that a shape of this kind covers, in coordinates around its middle (y points down)."""
    if kind == "square":
        return np.maximum(abs(ys), abs(xs)) <= 0.9 * radius
    if kind == "circle":
        return ys**2 + xs**2 <= radius**2
    return (abs(xs) <= 0.65 * (ys + radius)) & (ys <= 0.8 * radius)
