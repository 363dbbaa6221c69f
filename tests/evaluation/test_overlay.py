"""Guards drawn maps: a bright patch beside the place that it is about, or a picture that is not seen as if it were."""

import numpy as np
import pytest
import torch
from PIL import Image

from llava_pl.evaluation.overlay import draw_overlay


def brightness(picture):
    return np.asarray(picture.convert("L"), dtype=float)


def test_the_bright_patch_is_where_the_value_is():
    values = torch.tensor([[0.0, 0.0], [0.0, 0.4]])
    shown = draw_overlay(Image.new("RGB", (600, 600)), values, (0, 0, 600, 600))
    assert shown.size == (600, 600)
    levels = brightness(shown)
    assert levels[310:, 310:].min() > 100
    assert levels[:290].max() == levels[:, :290].max() < 10


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((48, 24), (560, 280)), ((700, 900), (700, 900)), ((4000, 3000), (1600, 1200)), ((9000, 1), (1600, 1))],
)
def test_pictures_are_drawn_at_a_size_that_can_be_seen(size, drawn):
    assert draw_overlay(Image.new("RGB", size), torch.ones(3, 3), (0, 0, *size)).size == drawn


def test_what_is_cut_off_is_grey_and_what_is_added_is_not_shown():
    """A picture of 600 x 300 whose middle square alone is seen, and one that is padded to a square."""
    red = Image.new("RGB", (600, 300), (255, 0, 0))
    cut = np.asarray(draw_overlay(red, torch.ones(2, 2), (150, 0, 450, 300)), dtype=int)
    assert np.ptp(cut[:, :149], axis=2).max() == 0
    assert np.ptp(cut[:, 151:449], axis=2).min() > 0
    values = torch.tensor([[9.0, 9.0], [0.0, 1.0], [0.0, 0.0], [9.0, 9.0]])
    padded = brightness(draw_overlay(Image.new("RGB", (600, 300)), values, (0, -150, 600, 450), top=1.0))
    assert padded.shape == (300, 600)
    assert padded[:149, 310:].min() > 100
    assert padded[151:].max() < 10


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_maps_without_a_difference_can_be_drawn(value):
    assert draw_overlay(Image.new("RGB", (600, 600)), torch.full((2, 2), value), (0, 0, 600, 600)).size == (600, 600)
