"""Guards: tiles in another order than the model puts them together, or other counts of image tokens than it fills.

Neither need raise: a map of shuffled tiles has the right size. The original's own numbers are in
`tests/parity/test_image_golden.py`.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor

from llava_pl.data.anyres import Tiling, default_pinpoints
from llava_pl.types import ImageGrid, InputError, RecordError

LLAVA = Tiling(336, 576, default_pinpoints(336))
SMALL = Tiling(2, 1, [(2, 4), (4, 2), (4, 4), (6, 2)])


def test_pinpoints_of_other_encoders_have_the_same_shapes():
    assert default_pinpoints(16) == [(16, 32), (32, 16), (32, 32), (48, 16), (16, 48)]


@pytest.mark.parametrize(
    ("size", "pinpoint"),
    [
        ((1, 1), (336, 672)),  # several show all of it; of those with least padding the first
        ((337, 336), (672, 336)),
        ((500, 400), (672, 672)),
        ((1344, 336), (1008, 336)),
        ((336, 1344), (336, 1008)),
        ((4000, 3000), (672, 672)),
        ((1344, 672), (672, 336)),  # as many pixels as in 672 x 672, with less padding
    ],
)
def test_the_size_that_shows_most(size, pinpoint):
    assert LLAVA.choose_pinpoint(size) == pinpoint


def test_of_equal_sizes_the_first():
    assert Tiling(336, 576, [(672, 336), (336, 672)]).choose_pinpoint((100, 100)) == (672, 336)
    assert Tiling(336, 576, [(336, 672), (672, 336)]).choose_pinpoint((100, 100)) == (336, 672)


@pytest.mark.parametrize(
    ("size", "grid", "num_tokens"),
    [
        ((640, 480), ImageGrid(rows=2, columns=2, height=36, width=48), 576 + 36 * 49),
        ((480, 640), ImageGrid(rows=2, columns=2, height=48, width=36), 576 + 48 * 37),
        ((672, 672), ImageGrid(rows=2, columns=2, height=48, width=48), 576 + 48 * 49),
        ((1, 1), ImageGrid(rows=2, columns=1, height=24, width=24), 576 + 24 * 25),
        # 21.6 rows of 24 are 21: of the three rows of padding one is cut on either side, and one stays.
        ((1000, 300), ImageGrid(rows=1, columns=3, height=22, width=72), 576 + 22 * 73),
        # Less than a row: the map is all padding, and the whole picture in front is all there is; newlines stay.
        ((2000, 20), ImageGrid(rows=1, columns=3, height=0, width=72), 576),
        ((20, 2000), ImageGrid(rows=3, columns=1, height=72, width=0), 576 + 72),
        # In floats 799 * (24 / 376) is just below 51, for which the original keeps 50 rows.
        ((376, 799), ImageGrid(rows=3, columns=1, height=52, width=24), 576 + 52 * 25),
        ((656, 205), ImageGrid(rows=1, columns=2, height=16, width=48), 576 + 16 * 49),
    ],
)
def test_grid_of_a_size(size, grid, num_tokens):
    assert LLAVA.grid(size) == grid
    assert grid.num_tokens(576) == num_tokens


class Peer(LlavaNextProcessor):
    """The arithmetic of transformers' processor, without the parts that it does not need here."""

    def __init__(self):
        self.patch_size, self.num_additional_image_tokens = 14, 0
        # There height comes first: in pinpoints of this order ties end as they do here.
        self.image_processor = type("Settings", (), {"image_grid_pinpoints": [(h, w) for w, h in LLAVA.pinpoints]})


@given(width=st.integers(1, 4000), height=st.integers(1, 4000))
def test_counts_are_those_of_transformers(width, height):
    if max(width, height) / min(width, height) > 1000:  # refused here
        return
    peer = Peer()
    best = select_best_resolution((height, width), peer.image_processor.image_grid_pinpoints)
    assert LLAVA.choose_pinpoint((width, height)) == best[::-1]
    assert LLAVA.grid((width, height)).num_tokens(576) == peer._get_number_of_features(height, width, 336, 336)


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000)])
@pytest.mark.parametrize("ask", [LLAVA.grid, LLAVA.choose_pinpoint, lambda size: LLAVA.cut(Image.new("RGB", size))])
def test_elongated_pictures_are_refused(size, ask):
    with pytest.raises(
        RecordError, match=f"^picture of {size[0]} x {size[1]} pixels: too elongated .* or leave it out$"
    ):
        ask(size)


def numbered(width: int, height: int) -> Image.Image:
    """A grey picture whose levels count the pixels in reading order, from 1; black is padding."""
    levels = np.arange(1, width * height + 1, dtype=np.uint8).reshape(height, width)
    return Image.fromarray(levels).convert("RGB")


def grey(tiles: list[Image.Image]) -> list[list[list[int]]]:
    assert {tile.mode for tile in tiles} == {"RGB"}
    return [np.asarray(tile)[..., 0].tolist() for tile in tiles]


def test_tiles_lie_in_reading_order_behind_the_whole():
    picture = numbered(4, 4)
    whole = np.asarray(picture.resize((2, 2), Image.Resampling.BICUBIC))[..., 0].tolist()
    assert grey(SMALL.cut(picture)) == [
        whole,
        [[1, 2], [5, 6]],
        [[3, 4], [7, 8]],
        [[9, 10], [13, 14]],
        [[11, 12], [15, 16]],
    ]


def test_what_a_picture_does_not_fill_is_black():
    # 4 x 1 pixels in 4 x 2: the picture stands above the odd row of padding.
    assert grey(SMALL.cut(numbered(4, 1)))[1:] == [[[1, 2], [0, 0]], [[3, 4], [0, 0]]]
    # 1 x 4 pixels in 2 x 4: and left of the odd column.
    assert grey(SMALL.cut(numbered(1, 4)))[1:] == [[[1, 0], [2, 0]], [[3, 0], [4, 0]]]


def test_a_single_pixel():
    assert grey(SMALL.cut(numbered(1, 1))) == [[[1, 1], [1, 1]], [[0, 0], [1, 1]], [[1, 1], [0, 0]]]


@pytest.mark.parametrize("size", [(5, 3), (3, 5), (9, 2), (2, 7), (4, 4), (100, 30)])
def test_there_are_as_many_tiles_as_the_grid_says(size):
    tiles = SMALL.cut(Image.new("RGB", size))
    assert len(tiles) == SMALL.grid(size).num_tiles
    assert {tile.size for tile in tiles} == {(2, 2)}


@pytest.mark.parametrize("pinpoints", [[], [(336, 500)], [(336, 672), (0, 336)], [(-336, 336)]])
def test_pinpoints_that_cannot_be(pinpoints):
    with pytest.raises(InputError) as caught:
        Tiling(336, 576, pinpoints)
    assert str(caught.value) == (
        "grid_pinpoints: expected pairs of width and height, each a multiple of the vision encoder's 336 pixels, "
        f"found {[list(pair) for pair in pinpoints]}; correct them"
    )


def test_features_with_a_class_token_are_no_map():
    with pytest.raises(InputError, match=r"found 577; set model.vision_encoder.select_feature to patch$"):
        Tiling(336, 577, [(336, 336)])
