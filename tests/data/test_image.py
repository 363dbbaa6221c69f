"""Guards the pixels: a picture that is turned, tinted, shifted or garbled trains a model without any error."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_pl.data.image import CLIP_MEAN, CLIP_STD, ImageTransform, load_image, pad_to_square, read_picture_size
from llava_pl.types import InputError, RecordError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
PAD = (122, 116, 104)
ORIENTATION = 0x0112


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


def row(*colours: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    picture = Image.new(mode, (len(colours), 1))
    picture.putdata([colour if len(colour) > 1 else colour[0] for colour in colours])
    return picture


def pixels(picture: Image.Image) -> list[tuple[int, ...]]:
    assert picture.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()]


def levels(pixel_values: torch.Tensor) -> list[list[list[float]]]:
    """Pixel values back on the scale of 0 to 255, as rows of pixels; 0.001 is far above float32 rounding (5e-5)."""
    scaled = (pixel_values * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)) * 255
    return [[pytest.approx(pixel, abs=1e-3) for pixel in line] for line in scaled.permute(1, 2, 0).tolist()]


# --- load_image: colours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (row(RED, BLUE), [RED, BLUE]),
        (row((7,), (200,), mode="L"), [(7, 7, 7), (200, 200, 200)]),
        (row((7, 0), (200, 128), mode="LA"), [(7, 7, 7), (200, 200, 200)]),
        (row((10, 20, 30, 0), (40, 50, 60, 128), mode="RGBA"), [(10, 20, 30), (40, 50, 60)]),
        (row((0,), (1,), mode="1"), [(0, 0, 0), WHITE]),
        (row((7,), (300,), (65535,), mode="I;16"), [(7, 7, 7), WHITE, WHITE]),
    ],
    ids=["RGB", "L", "LA", "RGBA", "1", "I;16"],
)
def test_modes_become_rgb_without_compositing_or_scaling(tmp_path, picture, expected):
    assert pixels(load_image(save(picture, tmp_path / "picture.png"))) == expected


def test_cmyk(tmp_path):
    path = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "picture.tiff")
    assert set(pixels(load_image(path))) == {RED}


@pytest.mark.parametrize("transparency", [1, bytes([0, 128])], ids=["one entry", "many entries"])
@pytest.mark.filterwarnings("error")
def test_transparent_palette_shows_its_colours(tmp_path, transparency):
    picture = row((0,), (1,), mode="P")
    picture.putpalette([*RED, *GREEN])
    loaded = load_image(save(picture, tmp_path / "picture.png", transparency=transparency))
    assert pixels(loaded) == [RED, GREEN]
    # A note left in `info` would make the processor of transformers 5 fill with white.
    assert "transparency" not in loaded.info


def test_transparent_colour_of_an_rgb_picture_is_kept_by_the_transform(tmp_path):
    path = save(Image.new("RGB", (4, 4), RED), tmp_path / "picture.png", transparency=RED)
    with Image.open(path) as opened:
        assert opened.info["transparency"] == RED
        assert levels(ImageTransform(1, "square")(opened)) == [[list(RED)]]
    assert levels(ImageTransform(1, "square")(load_image(path))) == [[list(RED)]]


def test_format_is_recognised_by_content(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (2, 2), BLUE).save(path, format="PNG")
    assert set(pixels(load_image(str(path)))) == {BLUE}


def test_first_frame_of_an_animation(tmp_path):
    path = tmp_path / "picture.gif"
    Image.new("RGB", (2, 2), RED).save(path, save_all=True, append_images=[Image.new("RGB", (2, 2), BLUE)])
    assert set(pixels(load_image(path))) == {RED}


# --- load_image: orientation -----------------------------------------------------------------------------------------

# The stored picture is one row, R G B, or the same as one column; how each orientation code shows it.
TURNED = {
    1: ((3, 1), [RED, GREEN, BLUE]),
    2: ((3, 1), [BLUE, GREEN, RED]),
    3: ((3, 1), [BLUE, GREEN, RED]),
    6: ((1, 3), [RED, GREEN, BLUE]),
    8: ((1, 3), [BLUE, GREEN, RED]),
}


@pytest.mark.parametrize("code", TURNED)
def test_exif_orientation(tmp_path, code):
    exif = Image.Exif()
    exif[ORIENTATION] = code
    path = save(row(RED, GREEN, BLUE), tmp_path / "picture.png", exif=exif)
    upright, stored = load_image(path), load_image(path, respect_exif=False)
    assert (upright.size, pixels(upright)) == TURNED[code]
    assert (stored.size, pixels(stored)) == TURNED[1]


@pytest.mark.parametrize("code", range(1, 10))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff", "a.webp", "a.gif"])
@pytest.mark.parametrize("respect_exif", [True, False])
def test_size_in_the_header_is_that_of_the_picture(tmp_path, code, name, respect_exif):
    exif = Image.Exif()
    exif[ORIENTATION] = code
    path = save(row(RED, GREEN, BLUE), tmp_path / name, exif=exif)
    size = load_image(path, respect_exif=respect_exif).size
    assert read_picture_size(path, respect_exif=respect_exif) == size
    if respect_exif and name == "a.jpg":
        assert size == ((1, 3) if code in (5, 6, 7, 8) else (3, 1))


def test_size_of_a_png_that_tells_its_orientation_last(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = save(row(RED, GREEN, BLUE), tmp_path / "picture.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "last.png").write_bytes(content[:-12] + chunk + content[-12:])
    assert load_image(tmp_path / "last.png").size == read_picture_size(tmp_path / "last.png") == (1, 3)


def test_size_needs_no_pixels(tmp_path):
    whole = save(Image.effect_noise((64, 40), 80), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "head.jpg").write_bytes(whole[:700])
    assert read_picture_size(tmp_path / "head.jpg") == (64, 40)


def test_size_of_no_picture_is_refused_as_the_picture_is(tmp_path):
    (tmp_path / "text.png").write_text("this is text")
    for name in ("text.png", "absent.png"):
        messages = []
        for read in (load_image, read_picture_size):
            with pytest.raises(RecordError) as caught:
                read(tmp_path / name)
            messages.append((str(caught.value), caught.value.reason))
        assert messages[0] == messages[1]


def test_damaged_exif_is_ignored(tmp_path):
    # Orientation 6, and a resolution that is text where it must be a number: Pillow fails to write it back.
    entries = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    path = save(row(RED, GREEN, BLUE), tmp_path / "picture.png", exif=exif)
    with Image.open(path) as picture, pytest.raises(TypeError):
        ImageOps.exif_transpose(picture)
    assert pixels(load_image(path)) == [RED, GREEN, BLUE]
    assert read_picture_size(path) == (3, 1)


# --- load_image: failures --------------------------------------------------------------------------------------------


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, "JPEG")
    return buffer.getvalue()[:-200]


def png_with_wrong_checksum() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[20] ^= 1  # inside the header chunk, whose checksum then fails
    return bytes(content)


def png_bomb(side: int) -> bytes:
    """A header that promises side x side pixels, and the start of their data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found 0 bytes (UnidentifiedImageError"),
        (b"this is text\n", "found 13 bytes (UnidentifiedImageError"),
        (truncated_jpeg(), "image file is truncated"),
        (png_with_wrong_checksum(), "found"),
        (png_bomb(10_000), "DecompressionBombWarning"),
        (png_bomb(20_000), "DecompressionBombError"),
    ],
    ids=["empty", "text", "truncated", "checksum", "bomb that Pillow warns of", "bomb that Pillow refuses"],
)
@pytest.mark.filterwarnings("error")  # an unclosed file is an error too
def test_unreadable_content(tmp_path, content, found):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_image(path)
    message = str(caught.value)
    assert message.startswith(f"cannot read picture {path}: expected a complete picture of at most 89478485 pixels, ")
    assert found in message
    assert message.endswith("; replace or shrink the file, or drop its record")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "found"),
    [("absent.jpg", "No such file or directory"), (".", "Is a directory"), ("a\0b.jpg", "embedded null byte")],
    ids=["missing", "directory", "null character"],
)
def test_no_file(tmp_path, name, found):
    with pytest.raises(InputError, match=f"expected a file, found: {found}; check the image folder"):
        load_image(tmp_path / name)


def test_the_file_is_closed(tmp_path):
    path = save(row(RED), tmp_path / "picture.gif")
    code = f"from llava_pl.data.image import load_image; picture = load_image({str(path)!r}); print(picture.size)"
    # -X dev reports files left open on stderr when the process ends.
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, "unclosed file" in done.stderr) == ("(1, 1)\n", False)


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
