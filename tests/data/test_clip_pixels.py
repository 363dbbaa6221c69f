"""Guards equality with the processor: a short cut that is off by one bit is not what the encoder was trained with."""

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_pl.data.clip_pixels import ClipPixels, centre_on_canvas, look_up, look_up_pixels
from llava_pl.data.image import CLIP_MEAN, CLIP_STD, ImageTransform, pad_to_square

PAD = (122, 116, 104)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture in which every pixel differs from its neighbours, so that any shift or swap changes values."""
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


def by_processor(processor: CLIPImageProcessorPil, picture: Image.Image) -> torch.Tensor:
    return processor.preprocess(picture, return_tensors="pt")["pixel_values"][0]


def assert_same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.is_contiguous()
    assert found.numpy().tobytes() == expected.contiguous().numpy().tobytes()


LENGTHS = st.integers(1, 90)
UNIT = st.floats(0.0, 1.0, width=32)
SETTINGS = st.fixed_dictionaries(
    {
        "size": st.builds(lambda edge: {"shortest_edge": edge}, st.integers(1, 60)),
        "crop_size": st.builds(lambda side: {"height": side, "width": side}, st.integers(1, 60)),
        "resample": st.sampled_from(Image.Resampling).map(int),
        "do_resize": st.booleans(),
        "do_rescale": st.booleans(),
        "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 0.00392156862745098]),
        "do_normalize": st.booleans(),
        "image_mean": st.lists(UNIT, min_size=3, max_size=3),
        "image_std": st.lists(st.floats(0.125, 2.0, width=32), min_size=3, max_size=3),
    }
)


@given(LENGTHS, LENGTHS, st.sampled_from(["pad", "square"]), SETTINGS, st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_every_bit_is_the_processors(width, height, aspect, options, seed):
    processor, picture = CLIPImageProcessorPil(**options), noise(width, height, seed=seed)
    clip_pixels = ClipPixels(processor)
    assert clip_pixels.is_known
    given_to_processor = pad_to_square(picture, PAD) if aspect == "pad" else picture
    found = clip_pixels(picture, PAD if aspect == "pad" else None)
    assert_same_bits(found, by_processor(processor, given_to_processor))


@given(LENGTHS, LENGTHS, st.sampled_from(["pad", "square"]), SETTINGS, st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_bit_is_siglips_processors(width, height, aspect, options, side, seed):
    options = {**options, "size": {"height": side, "width": side}, "do_resize": True, "do_center_crop": False}
    clip_pixels = ClipPixels(CLIPImageProcessorPil(**options))
    assert clip_pixels.is_known
    del options["crop_size"], options["do_center_crop"]
    picture = noise(width, height, seed=seed)
    given_to_processor = pad_to_square(picture, PAD) if aspect == "pad" else picture
    found = clip_pixels(picture, PAD if aspect == "pad" else None)
    assert_same_bits(found, by_processor(SiglipImageProcessorPil(**options), given_to_processor))


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 375), (336, 336), (337, 336), (1500, 211), (100, 67)])
def test_sizes_of_photographs(size, aspect):
    picture, transform = noise(*size), ImageTransform(336, aspect)
    given_to_processor = pad_to_square(picture, PAD) if aspect == "pad" else picture
    assert_same_bits(transform(picture), by_processor(transform.processor, given_to_processor))


@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"]),
    LENGTHS,
    LENGTHS,
    st.sampled_from(["pad", "square"]),
)
@example("RGB", 1, 3, "square")
@example("RGB", 3, 1, "square")
@settings(max_examples=100, deadline=None)
def test_every_mode(mode, width, height, aspect):
    picture = noise(width, height, mode)
    rgb = picture.convert("RGBA").convert("RGB") if mode == "P" else picture.convert("RGB")
    transform = ImageTransform(24, aspect)
    given_to_processor = pad_to_square(rgb, PAD) if aspect == "pad" else rgb
    assert_same_bits(transform(picture), by_processor(transform.processor, given_to_processor))


def test_the_picture_is_left_as_it_was():
    picture = noise(9, 5)
    before = picture.tobytes()
    pixel_values = ImageTransform(9)(picture)
    pixel_values.zero_()
    assert picture.tobytes() == before


def test_pictures_do_not_share_values():
    transform = ImageTransform(4)
    first, second = transform(noise(4, 4)), transform(noise(4, 4))
    first.zero_()
    assert second.any()


def test_table_by_hand():
    table = ClipPixels(CLIPImageProcessorPil(image_mean=[0.5, 0.0, 0.0], image_std=[0.5, 1.0, 0.25])).value_of_level
    assert (table.shape, table.dtype) == ((3, 256), torch.float32)
    assert table[:, [0, 51, 255]].tolist() == [
        [-1.0, pytest.approx(-0.6), 1.0],
        [0.0, np.float32(0.2), 1.0],
        [0.0, pytest.approx(0.8), 4.0],
    ]


@given(LENGTHS, LENGTHS, SETTINGS, st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_levels_that_are_looked_up_later_are_the_processors_values(width, height, options, seed):
    transform = ImageTransform(aspect="square")
    transform._follow(CLIPImageProcessorPil(**options))
    picture = noise(width, height, seed=seed)
    levels, table = transform.prepare(picture), transform.value_of_level
    assert (levels.dtype, table.dtype, table.shape) == (torch.uint8, torch.float32, (3, 256))
    batch = {"pixel_values": torch.stack([levels, levels]), "value_of_level": table, "num_tokens": 3}
    found = look_up_pixels(batch)
    assert found.keys() == {"pixel_values", "num_tokens"}
    expected = by_processor(transform.processor, picture).float()
    assert_same_bits(found["pixel_values"], torch.stack([expected, expected]))
    assert torch.equal(transform(picture), expected)


def test_values_in_half_precision_are_those_of_float32_rounded():
    """Lightning rounds the table with the rest of a batch for bf16-true, before the levels are looked up."""
    transform = ImageTransform(24)
    levels, table = transform.prepare(noise(30, 17)), transform.value_of_level
    assert torch.equal(look_up(levels, table.bfloat16()), look_up(levels, table).bfloat16())


def test_a_batch_of_values_or_without_pictures_is_left_alone():
    values = {"pixel_values": torch.ones(1, 3, 2, 2)}
    assert look_up_pixels(values) is values
    levels = {"pixel_values": torch.empty(0, 3, 2, 2, dtype=torch.uint8), "value_of_level": torch.zeros(3, 256)}
    empty = look_up_pixels(levels)["pixel_values"]
    assert (empty.shape, empty.dtype) == ((0, 3, 2, 2), torch.float32)


def test_black_surrounds_a_picture_smaller_than_the_crop():
    settings_of_file = {"do_resize": False, "do_rescale": False, "do_normalize": False, "crop_size": 4}
    found = ClipPixels(CLIPImageProcessorPil(**settings_of_file))(Image.new("RGB", (2, 1), (7, 8, 9)))
    # Two columns to add: one on each side. Three rows: two above and one below, as the processor has it.
    assert found[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 7, 7, 0], [0, 0, 0, 0]]
    assert found[:, 2, 1].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"height": 12, "width": 20}},
        {"size": {"shortest_edge": 12, "longest_edge": 15}},
        {"do_pad": True, "pad_size": {"height": 20, "width": 20}},
        {"do_center_crop": False},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("pad_colour", [PAD, None])
def test_other_settings_go_through_the_processor(options, pad_colour):
    processor = CLIPImageProcessorPil(**{"size": {"shortest_edge": 12}, "crop_size": 12} | options)
    clip_pixels, picture = ClipPixels(processor), noise(30, 17)
    assert not clip_pixels.is_known
    transform = ImageTransform()
    transform._follow(processor)
    assert transform.value_of_level is None
    assert transform.prepare(picture).dtype == torch.float32
    given_to_processor = picture if pad_colour is None else pad_to_square(picture, pad_colour)
    assert_same_bits(clip_pixels(picture, pad_colour), by_processor(processor, given_to_processor))


def test_settings_of_a_file_count(tmp_path):
    options = {"size": {"height": 12, "width": 20}, "crop_size": {"height": 12, "width": 12}, "resample": 2}
    file = {"image_processor_type": "CLIPImageProcessor", "image_mean": CLIP_MEAN, "image_std": CLIP_STD, **options}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    picture = noise(30, 17)
    found = ImageTransform.from_pretrained(tmp_path, aspect="square")(picture)
    assert_same_bits(found, by_processor(CLIPImageProcessorPil(**options), picture))


@pytest.mark.parametrize(
    ("size", "rows"),
    [((3, 2), ["RR.", "..."]), ((2, 4), ["..", "RR", "..", ".."]), ((5, 1), [".RR.."])],
)
def test_the_extra_row_and_column_go_below_and_to_the_right(size, rows):
    canvas = centre_on_canvas(Image.new("RGB", (2, 1), (255, 0, 0)), size, PAD)
    marks = {(255, 0, 0): "R", PAD: "."}
    found = ["".join(marks[tuple(pixel)] for pixel in row) for row in np.asarray(canvas).tolist()]
    assert found == rows
