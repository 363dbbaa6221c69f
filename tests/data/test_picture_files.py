"""Guards the picture that a file holds: turned, tinted or garbled, it trains a model without any error."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from llava_pl.data.picture_files import decode_image, load_image, read_picture_size
from llava_pl.types import InputError, RecordError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
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


# --- colours --------------------------------------------------------------------------------------------------------


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


def test_format_is_recognised_by_content(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (2, 2), BLUE).save(path, format="PNG")
    assert set(pixels(load_image(str(path)))) == {BLUE}


def test_first_frame_of_an_animation(tmp_path):
    path = tmp_path / "picture.gif"
    Image.new("RGB", (2, 2), RED).save(path, save_all=True, append_images=[Image.new("RGB", (2, 2), BLUE)])
    assert set(pixels(load_image(path))) == {RED}


# --- orientation ----------------------------------------------------------------------------------------------------

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
    assert decode_image(path.read_bytes(), "picture") == upright


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


# --- failures -------------------------------------------------------------------------------------------------------


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
    assert message.endswith("; replace or shrink the file, or leave it out")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "found"),
    [("absent.jpg", "No such file or directory"), (".", "Is a directory"), ("a\0b.jpg", "embedded null byte")],
    ids=["missing", "directory", "null character"],
)
def test_no_file(tmp_path, name, found):
    with pytest.raises(InputError, match=f"expected a file, found: {found}; check its name and its folder"):
        load_image(tmp_path / name)


def test_the_file_is_closed(tmp_path):
    path = save(row(RED), tmp_path / "picture.gif")
    code = (
        f"from llava_pl.data.picture_files import load_image; picture = load_image({str(path)!r}); print(picture.size)"
    )
    # -X dev reports files left open on stderr when the process ends.
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, "unclosed file" in done.stderr) == ("(1, 1)\n", False)
