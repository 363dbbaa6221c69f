"""Guards: a picture that does not show its scene, a held-out scene seen in training, an incomplete seed."""

import numpy as np
import pytest

from llava_pl.demo.shapes import (
    CELL_PIXELS,
    CELLS,
    COLOURS,
    COUNTS,
    KINDS,
    PICTURE_PIXELS,
    Scene,
    Shape,
    draw,
    sample_scene,
)


def sample(num_scenes, *, held_out=False, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, held_out=held_out) for _ in range(num_scenes)]


def middle_of(picture, cell):
    row, column = divmod(cell, 3)
    y, x = (CELL_PIXELS * i + CELL_PIXELS // 2 for i in (row, column))
    return picture[y - 1 : y + 1, x - 1 : x + 1].astype(int)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_middle_of_the_cell_has_the_colour_and_nothing_leaves_the_cell(kind, colour):
    scene = Scene((Shape(5, kind, colour),))
    for seed in range(50):
        picture = draw(scene, np.random.default_rng(seed))
        assert picture.shape == (PICTURE_PIXELS, PICTURE_PIXELS, 3)
        assert picture.dtype == np.uint8
        assert np.abs(middle_of(picture, 5) - COLOURS[colour]).max() <= 20
        # A background pixel is grey up to noise: its channels are at most 16 apart; a shape's are 90 apart or more.
        is_shape = np.ptp(picture.astype(int), axis=2) > 16
        is_shape[CELL_PIXELS : 2 * CELL_PIXELS, 2 * CELL_PIXELS :] = False
        assert not is_shape.any()


def test_kinds_cover_different_pixels():
    # The same jitter for all kinds: what differs is the outline. A square has corners, a triangle lacks the upper two.
    area = {}
    for kind in KINDS:
        picture = draw(Scene((Shape(4, kind, "red"),)), np.random.default_rng(3)).astype(int)
        area[kind] = int((np.ptp(picture, axis=2) > 16).sum())
    assert area["triangle"] < area["circle"] < area["square"]


def test_scenes_obey_their_contract():
    scenes = sample(500)
    for scene in scenes:
        cells, names = [s.cell for s in scene.shapes], [s.name for s in scene.shapes]
        kinds = [s.kind for s in scene.shapes]
        assert cells == sorted(set(cells))
        assert len(set(names)) == len(names)
        assert list(scene.singles) == [s for s in scene.shapes if kinds.count(s.kind) == 1]
        assert scene.singles
    # Uniform over COUNTS: 500/2 with a deviation of 11.2; four deviations.
    counts = [len(scene.shapes) for scene in scenes]
    assert all(abs(counts.count(count) - 500 / 2) < 45 for count in COUNTS)
    assert {shape.cell for scene in scenes for shape in scene.shapes} == set(range(len(CELLS)))


def test_held_out_scenes_are_never_drawn_for_training():
    training, held_out = set(sample(2000)), set(sample(500, held_out=True, seed=1))
    assert not training & held_out
    assert all(scene.is_held_out for scene in held_out)
    assert not any(scene.is_held_out for scene in training)


def test_one_scene_in_eight_is_held_out():
    # Every scene of one shape: 9 cells x 12 names = 108. The number is fixed by the hash, the same on every machine.
    singles = [Scene((Shape(cell, kind, colour),)) for cell in range(9) for kind in KINDS for colour in COLOURS]
    assert sum(scene.is_held_out for scene in singles) == 11


def test_same_seed_same_bytes():
    first, second = (
        [draw(scene, np.random.default_rng(i)).tobytes() for i, scene in enumerate(sample(20))] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 20
