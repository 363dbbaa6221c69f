"""Guards the equality of our pixel values with the original's, byte for byte, over every kind of picture file.

JPEGs included: Pillow 10.2 (the original's run) and 12.3 (wheels, libjpeg-turbo 3.1) decode these files alike. Should
another libjpeg differ by a level, `test_pixels_in_full` tells by how much, and only the JPEG hashes may be relaxed.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_pl.data.anyres import Tiling, default_pinpoints
from llava_pl.data.image import CLIP_MEAN, CLIP_STD, ImageTransform
from llava_pl.data.picture_files import load_image, read_picture_size
from llava_pl.types import InputError

EQUAL = [
    "wide.png",
    "tall.png",
    "square.png",
    "odd_difference.png",
    "one_column.png",
    "three_columns.png",
    "exact_336.png",
    "larger.png",
    "rgba.png",
    "palette.png",
    "palette_transparent.png",
    "gray.png",
    "gray_alpha.png",
    "one_bit.png",
    "gray_16bit.png",
    "gray_16bit_dark.png",
    "cmyk.jpg",
    "exif_rotated.jpg",
    "plain.jpg",
    "gray.jpg",
    "still.gif",
    "picture.bmp",
]
UNREADABLE = ["truncated.jpg", "not_an_image.jpg"]
# The original takes 1 or 3 rows for channels. Padded to a square, only the single pixel keeps that height.
REFUSED = [("one_row.png", "square"), ("one_pixel.png", "square"), ("one_pixel.png", "pad")]
GARBLED = [("three_rows.png", "square")]
HEIGHT_IS_NO_CHANNEL = [("one_row.png", "pad"), ("three_rows.png", "pad")]

SIZES = [336, 56]
MEAN, STD = (np.array(values).reshape(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))


@pytest.fixture(scope="module")
def expected(golden_path: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((golden_path / "image" / "expected.json").read_text(encoding="utf-8"))
    return {entry["file"]: entry for entry in content["images"]}


@pytest.fixture(scope="module")
def files(golden_path: Path) -> Path:
    return golden_path / "image" / "files"


def pixel_values(path: Path, size: int, aspect: Any) -> np.ndarray:
    # The original ignores EXIF orientation.
    return ImageTransform(size, aspect)(load_image(path, respect_exif=False)).numpy()


def test_every_file_is_in_one_list(expected, files):
    listed = set(EQUAL) | set(UNREADABLE) | {name for name, _ in REFUSED + GARBLED}
    assert listed == set(expected) == {path.name for path in files.iterdir()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "aspect"), [(name, aspect) for name in EQUAL for aspect in ("pad", "square")] + HEIGHT_IS_NO_CHANNEL
)
@pytest.mark.filterwarnings("error")
def test_bytes_are_equal(expected, files, name, aspect, size):
    entry = expected[name][f"{size}_{aspect}"]
    ours = pixel_values(files / name, size, aspect)
    assert (list(ours.shape), str(ours.dtype)) == (entry["shape"], entry["dtype"])
    assert hashlib.sha256(ours.tobytes()).hexdigest() == entry["sha256_float32"]


@pytest.mark.parametrize("name", EQUAL)
def test_pixels_in_full(golden_path, files, name):
    """The same, against values rather than hashes, so that a failure shows where and by how much."""
    arrays = np.load(golden_path / "image" / "expected.npz")
    for aspect in ("pad", "square"):
        np.testing.assert_array_equal(
            pixel_values(files / name, 336, aspect)[:, 4::16, 4::16], arrays[f"{name}/336_{aspect}"]
        )
        levels = np.rint((pixel_values(files / name, 56, aspect) * STD + MEAN) * 255)
        np.testing.assert_array_equal(levels, arrays[f"{name}/56_{aspect}_uint8"])


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_refused_by_both(expected, files, name):
    assert {expected[name][f"{size}_{aspect}"].get("error") for size in SIZES for aspect in ("pad", "square")} <= {
        "OSError",
        "UnidentifiedImageError",
    }
    with pytest.raises(InputError, match=name):
        load_image(files / name)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "aspect"), REFUSED + GARBLED)
def test_low_pictures_work_where_the_original_fails(expected, files, name, aspect, size):
    entry = expected[name][f"{size}_{aspect}"]
    assert entry.get("error") == ("ValueError" if (name, aspect) in REFUSED else None)
    # What CLIP's preprocessing means by resize and centre crop, written with Pillow alone. A single pixel is square.
    picture = Image.open(files / name)
    width = size * picture.width // picture.height
    left = (width - size) // 2
    resized = picture.resize((width, size), Image.Resampling.BICUBIC).crop((left, 0, left + size, size))
    ours = pixel_values(files / name, size, aspect)
    np.testing.assert_array_equal(np.rint((ours * STD + MEAN) * 255), np.asarray(resized).transpose(2, 0, 1))
    assert hashlib.sha256(ours.tobytes()).hexdigest() != entry.get("sha256_float32")


def test_upright_by_default(files):
    stored = load_image(files / "exif_rotated.jpg", respect_exif=False)
    upright = load_image(files / "exif_rotated.jpg")
    assert (stored.size, upright.size) == ((120, 80), (80, 120))
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(stored), k=-1))


@pytest.mark.parametrize("respect_exif", [True, False])
@pytest.mark.parametrize("name", EQUAL)
def test_size_is_known_from_the_header(files, name, respect_exif):
    size = load_image(files / name, respect_exif=respect_exif).size
    assert read_picture_size(files / name, respect_exif=respect_exif) == size


@pytest.mark.parametrize("variant", ["mlp2x", "gqa-linear"])
def test_transform_of_a_golden_encoder(golden_path, expected, files, variant):
    transform = ImageTransform.from_pretrained(golden_path / "model" / f"clip-{variant}-patch14-56")
    assert (transform.image_size, transform.aspect, transform.pad_colour) == (56, "pad", (122, 116, 104))
    ours = transform(load_image(files / "wide.png")).numpy()
    assert hashlib.sha256(ours.tobytes()).hexdigest() == expected["wide.png"]["56_pad"]["sha256_float32"]


@pytest.fixture(scope="module")
def tiles(golden_path: Path) -> dict[str, Any]:
    content = json.loads((golden_path / "image" / "expected.json").read_text(encoding="utf-8"))
    return {name: content[name] for name in ("anyres", "anyres_pixels")}


def test_tiles_and_window_of_a_size(tiles):
    """The original's best resolution, its grid, and what it leaves of a map whose features are counted from 0."""
    golden = tiles["anyres"]
    assert golden["pinpoints"] == [list(pair) for pair in default_pinpoints(golden["patch_size"])]
    tiling = Tiling(336, 576, default_pinpoints(336))
    assert len(golden["cases"]) == 7
    for case in golden["cases"]:
        size = tuple(case["size"])
        grid = tiling.grid(size)
        assert list(tiling.choose_pinpoint(size)) == case["best_resolution"]
        assert [grid.columns, grid.rows] == case["grid_shape"]
        assert [1, grid.height, grid.width] == case["unpad_shape"]
        rows, columns = 24 * grid.rows, 24 * grid.columns
        top, left = (rows - grid.height) // 2, (columns - grid.width) // 2
        assert top * columns + left == case["unpad_first"]
        assert (top + grid.height - 1) * columns + left + grid.width - 1 == case["unpad_last"]


def test_bytes_of_tiles_are_equal(tiles, files):
    golden = tiles["anyres_pixels"]
    tiling = Tiling(56, 16, [tuple(pair) for pair in golden["pinpoints"]])
    transform = ImageTransform(56, "square")
    assert len(golden["cases"]) == 3
    for case in golden["cases"]:
        cut = tiling.cut(load_image(files / case["file"], respect_exif=False))
        pixels = np.stack([transform(tile).numpy() for tile in cut])
        assert list(pixels.shape) == case["shape"]
        levels = np.rint((pixels * STD + MEAN) * 255).astype(np.uint8)
        assert hashlib.sha256(levels.tobytes()).hexdigest() == case["sha256_uint8"]
