"""Guards the pixels: a picture that is turned, tinted, shifted or garbled trains a model without any error."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_pl.data.image import CLIP_MEAN, CLIP_STD, ImageTransform, pad_to_square
from llava_pl.data.picture_files import load_image
from llava_pl.types import InputError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PAD = (122, 116, 104)


def row(*colours: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (len(colours), 1))
    picture.putdata(colours)
    return picture


def pixels(picture: Image.Image) -> list[tuple[int, ...]]:
    assert picture.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()]


def levels(pixel_values: torch.Tensor) -> list[list[list[float]]]:
    """Pixel values back on the scale of 0 to 255, as rows of pixels; 0.001 is far above float32 rounding (5e-5)."""
    scaled = (pixel_values * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)) * 255
    return [[pytest.approx(pixel, abs=1e-3) for pixel in line] for line in scaled.permute(1, 2, 0).tolist()]


# --- pad_to_square ---------------------------------------------------------------------------------------------------


def test_the_extra_row_goes_below():
    padded = pad_to_square(Image.new("RGB", (4, 1), RED), PAD)
    assert pixels(padded) == [PAD] * 4 + [RED] * 4 + [PAD] * 8


def test_the_extra_column_goes_to_the_right():
    padded = pad_to_square(Image.new("RGB", (1, 4), RED), PAD)
    assert pixels(padded) == [PAD, RED, PAD, PAD] * 4


def test_a_square_is_not_padded_and_other_modes_are_converted():
    assert pixels(pad_to_square(Image.new("L", (2, 2), 9), PAD)) == [(9, 9, 9)] * 4
    assert pixels(pad_to_square(Image.new("L", (2, 1), 9), PAD)) == [(9, 9, 9)] * 2 + [PAD] * 2


# --- ImageTransform --------------------------------------------------------------------------------------------------


def test_defaults():
    transform = ImageTransform()
    assert (transform.image_size, transform.aspect, transform.pad_colour) == (336, "pad", PAD)
    pixel_values = transform(Image.new("RGB", (40, 30)))
    assert (pixel_values.shape, pixel_values.dtype) == ((3, 336, 336), torch.float32)
    assert pixel_values.is_contiguous()


def test_a_picture_of_the_right_size_is_only_normalised():
    stored = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixel_values = ImageTransform(8)(Image.fromarray(stored))
    assert levels(pixel_values) == stored.tolist()
    # The arithmetic of the processor, in its order and precision, so that equality is exact.
    scaled = (stored.transpose(2, 0, 1).astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    assert torch.equal(pixel_values, torch.from_numpy((scaled - mean) / std))


def test_pad_shows_all_and_square_cuts_off():
    picture = row(RED, GREEN, BLUE, RED)
    assert levels(ImageTransform(4, "pad")(picture)) == [
        [list(PAD)] * 4,
        [list(RED), list(GREEN), list(BLUE), list(RED)],
        [list(PAD)] * 4,
        [list(PAD)] * 4,
    ]
    # One row of four keeps its size; the crop of 1 begins at (4 - 1) // 2 = 1.
    assert levels(ImageTransform(1, "square")(picture)) == [[list(GREEN)]]


@pytest.mark.parametrize(
    ("settings", "aspect", "seen"),
    [
        ({}, "pad", (0, -20, 60, 40)),
        ({}, "square", (20, 0, 40, 20)),
        ({"size": {"shortest_edge": 32}}, "square", (25, 5, 35, 15)),
        ({"size": {"shortest_edge": 32}}, "pad", (15, -5, 45, 25)),
        ({"do_resize": False}, "square", (22, 2, 38, 18)),
        (
            {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}},
            "square",
            (0, 0, 60, 20),
        ),
        (
            {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}},
            "pad",
            (0, -20, 60, 40),
        ),
    ],
)
def test_what_the_encoder_sees(tmp_path, settings, aspect, seen):
    """Each pixel of a picture with a ramp from left to right has the value of the place that it is said to show."""
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 16} | settings
    if "Siglip" in settings["image_processor_type"]:
        del settings["crop_size"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    transform = ImageTransform.from_pretrained(tmp_path, aspect=aspect)
    assert transform.find_seen((60, 20)) == seen
    ramp = np.tile(np.arange(60, dtype=np.uint8)[None, :, None] * 4, (20, 1, 3))
    levels = transform.prepare(Image.fromarray(ramp))[0, 8].numpy().astype(float)
    places = seen[0] + (np.arange(16) + 0.5) * (seen[2] - seen[0]) / 16 - 0.5
    assert np.abs(levels - 4 * places)[1:-1].max() < 4  # a pixel of the picture; bicubic bends the ramp at its ends


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 9), (9, 3), (3, 3), (1, 3), (3, 1)])
def test_one_and_three_pixels_high_or_wide(size):
    picture = Image.new("RGB", size, RED)
    assert levels(ImageTransform(8, "square")(picture)) == [[list(RED)] * 8] * 8
    # As large as the padded square, "pad" resizes nothing: the picture itself, in the middle.
    side = max(size)
    padded = np.asarray(pad_to_square(picture, PAD)).tolist()
    assert levels(ImageTransform(side, "pad")(picture)) == padded


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_other_modes_are_converted(mode, aspect):
    picture = Image.new(mode, (6, 4))
    transform = ImageTransform(4, aspect)
    assert torch.equal(transform(picture), transform(picture.convert("RGB")))


def test_own_mean_and_std():
    transform = ImageTransform(2, image_mean=(0.5, 0.25, 0.999), image_std=(0.5, 0.5, 2.0))
    assert transform.pad_colour == (127, 63, 254)
    black = transform(Image.new("RGB", (2, 2)))
    assert black[:, 0, 0].tolist() == pytest.approx([-1.0, -0.5, -0.4995])


def test_elongated_pictures_are_refused_before_memory_is_taken():
    picture = Image.new("RGB", (20_000, 1))
    with pytest.raises(InputError, match=r"20000 x 1 pixels: .* aspect 'square', found 2257920000; crop or shrink"):
        ImageTransform(336, "square")(picture)
    with pytest.raises(InputError, match=r"20000 x 1 pixels: .* aspect 'pad', found 400000000; crop or shrink"):
        ImageTransform(336, "pad")(picture)
    assert ImageTransform(8, "square")(picture).shape == (3, 8, 8)


@pytest.mark.parametrize(("image_size", "aspect"), [(0, "pad"), (336, "Pad")])
def test_impossible_settings(image_size, aspect):
    with pytest.raises(InputError, match="expected aspect pad or square and image_size of at least 1, found"):
        ImageTransform(image_size, aspect)


def test_transparent_colour_of_an_rgb_picture_is_kept_by_the_transform(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4), RED).save(path, transparency=RED)
    with Image.open(path) as opened:
        assert opened.info["transparency"] == RED
        assert levels(ImageTransform(1, "square")(opened)) == [[list(RED)]]
    assert levels(ImageTransform(1, "square")(load_image(path))) == [[list(RED)]]


def test_survives_the_way_to_a_worker():
    picture = Image.effect_noise((20, 10), 60)
    transform = ImageTransform(8)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(picture), transform(picture))


def test_import_is_silent():
    code = "import llava_pl.data.image"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


# --- from_pretrained -------------------------------------------------------------------------------------------------

OLD = {  # as openai/clip-vit-large-patch14-336 ships it
    "crop_size": 336,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "resample": 3,
    "size": 336,
}
NEW = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 56},
    "crop_size": {"height": 56, "width": 56},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.5, 1.0],
}

SIGLIP = {  # as google/siglip-so400m-patch14-384 ships it, and the SigLIP-2 models of one picture size
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 384, "width": 384},
}


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def test_old_style_file(tmp_path):
    transform = ImageTransform.from_pretrained(write(tmp_path, preprocessor_config=OLD))
    assert (transform.image_size, transform.aspect, transform.pad_colour) == (336, "pad", PAD)
    picture = Image.effect_noise((20, 10), 60)
    assert torch.equal(transform(picture), ImageTransform()(picture))


def test_new_style_file_with_its_own_mean_and_std(tmp_path):
    transform = ImageTransform.from_pretrained(str(write(tmp_path, preprocessor_config=NEW)), aspect="square")
    assert (transform.image_size, transform.aspect, transform.pad_colour) == (56, "square", (127, 127, 127))
    assert transform(Image.new("RGB", (56, 56)))[:, 0, 0].tolist() == pytest.approx([-2.0, -1.0, -0.5])


def test_rescaling_and_resizing_follow_the_file(tmp_path):
    settings = NEW | {"do_rescale": False, "do_normalize": False, "size": {"shortest_edge": 2}, "crop_size": 1}
    transform = ImageTransform.from_pretrained(write(tmp_path, preprocessor_config=settings), aspect="square")
    picture = Image.new("RGB", (2, 2), RED)
    picture.putpixel((0, 0), (1, 2, 3))
    # The crop of 1 out of 2 begins at (2 - 1) // 2 = 0.
    assert transform(picture).tolist() == [[[1.0]], [[2.0]], [[3.0]]]


def test_the_preprocessor_file_wins_over_config(tmp_path):
    write(tmp_path, preprocessor_config=NEW, config={"model_type": "clip_vision_model", "image_size": 224})
    assert ImageTransform.from_pretrained(tmp_path).image_size == 56


@pytest.mark.parametrize(
    ("config", "image_size"),
    [
        ({"model_type": "clip", "vision_config": {"image_size": 56}}, 56),
        ({"model_type": "clip", "vision_config": {}}, 224),
        ({"model_type": "clip_vision_model", "image_size": 42}, 42),
    ],
    ids=["whole model", "default left out", "vision tower"],
)
def test_only_a_model_config(tmp_path, config, image_size):
    transform = ImageTransform.from_pretrained(write(tmp_path, config=config))
    assert (transform.image_size, transform.pad_colour) == (image_size, PAD)
    picture = Image.effect_noise((20, 10), 60)
    assert torch.equal(transform(picture), ImageTransform(image_size)(picture))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "none that can be read"),
        ({"preprocessor_config": "{"}, "none that can be read"),
        ({"config": "{"}, "none that can be read"),
        ({"config": "[]"}, "none that can be read"),
        ({"config": {"model_type": "llama"}}, "type llama"),
        (
            {"preprocessor_config": NEW | {"image_processor_type": "Siglip2ImageProcessor"}},
            "type Siglip2ImageProcessor",
        ),
        ({"preprocessor_config": SIGLIP | {"size": {"height": 56, "width": 28}}}, "'height': 56, 'width': 28"),
        ({"preprocessor_config": SIGLIP | {"do_center_crop": True}}, "do_center_crop True"),
        ({"preprocessor_config": SIGLIP | {"do_resize": False}}, "type SiglipImageProcessor"),
        ({"preprocessor_config": NEW | {"crop_size": {"height": 56, "width": 28}}}, "'height': 56, 'width': 28"),
        ({"preprocessor_config": NEW | {"do_center_crop": False}}, "do_center_crop False"),
    ],
    ids=[
        "empty",
        "broken",
        "broken config",
        "list",
        "language model",
        "other encoder",
        "oblong size",
        "cropped SigLIP",
        "SigLIP as it is",
        "oblong crop",
        "no crop",
    ],
)
def test_unusable_folders(tmp_path, files, found):
    with pytest.raises(InputError) as caught:
        ImageTransform.from_pretrained(write(tmp_path, **files))
    message = str(caught.value)
    assert message.startswith(f"image transform of {tmp_path}: expected preprocessor_config.json of a CLIP or SigLIP ")
    assert found in message
    assert message.endswith("; check the path of the vision encoder")
    assert "\n" not in message


@pytest.mark.parametrize("path", ["/no/such/folder", "nobody/nothing"])
def test_missing_encoder(path):
    with pytest.raises(InputError, match="none that can be read"):
        ImageTransform.from_pretrained(path)


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (384, 384), (100, 37), (1, 5), (500, 2)])
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_siglip_pixels_are_those_of_its_processor(tmp_path, aspect, size):
    folder = write(tmp_path, preprocessor_config=SIGLIP)
    transform = ImageTransform.from_pretrained(folder, aspect=aspect)
    assert (transform.image_size, transform.pad_colour) == (384, (127, 127, 127))
    picture = Image.effect_noise(size, 90).convert("RGB")
    picture.paste((250, 10, 90), (0, 0, size[0] // 2, size[1]))
    seen = pad_to_square(picture, (127, 127, 127)) if aspect == "pad" else picture
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    expected = processor.preprocess(seen, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(transform(picture), expected)


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_siglip_settings_come_back_as_they_were_saved(tmp_path, aspect):
    transform = ImageTransform.from_pretrained(write(tmp_path, preprocessor_config=SIGLIP), aspect=aspect)
    transform.processor.save_pretrained(tmp_path / "again")
    again = ImageTransform.from_pretrained(tmp_path / "again", aspect=aspect)
    picture = Image.linear_gradient("L").resize((50, 31)).convert("RGB")
    assert torch.equal(again(picture), transform(picture))
    assert (again.image_size, again.pad_colour) == (transform.image_size, transform.pad_colour)


@pytest.mark.parametrize(
    ("config", "image_size"),
    [
        ({"model_type": "siglip", "vision_config": {"image_size": 56}}, 56),
        ({"model_type": "siglip", "vision_config": {}}, 224),
        ({"model_type": "siglip_vision_model", "image_size": 42}, 42),
    ],
    ids=["whole model", "default left out", "vision tower"],
)
def test_only_a_model_config_of_siglip(tmp_path, config, image_size):
    transform = ImageTransform.from_pretrained(write(tmp_path, config=config), aspect="square")
    picture = Image.effect_noise((20, 10), 60).convert("RGB")
    processor = SiglipImageProcessorPil(size={"height": image_size, "width": image_size})
    expected = processor.preprocess(picture, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(transform(picture), expected)


def test_siglip_squeezes_what_a_crop_would_blow_up(tmp_path):
    """A line of pixels has a shortest edge of one; brought to 384 it would not fit into memory."""
    transform = ImageTransform.from_pretrained(write(tmp_path, preprocessor_config=SIGLIP), aspect="square")
    assert transform(Image.new("RGB", (20_000, 1), RED)).shape == (3, 384, 384)
