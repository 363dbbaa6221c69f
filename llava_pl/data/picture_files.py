"""Picture file -> RGB picture.

In: the file name that a record or a question gives. Out: a picture for ``data/image.py``, with the colours that the
original gets from Pillow, bit for bit. The departures are marked ``Unlike LLaVA``.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps

from llava_pl.types import RecordError


def find_picture(folder: Path, name: str) -> Path:
    """Return the path of a picture in a folder, whether or not there is a file.

    Raises:
        RecordError: The name leads out of the folder (path_outside): through ``..``, as an absolute path or over a
            symbolic link.
    """
    try:
        root, path = folder.resolve(), (folder / name).resolve()
    except (ValueError, RuntimeError):  # a null character, a lone surrogate, links in a circle: nothing can be opened
        return folder / name
    if not path.is_relative_to(root):
        raise RecordError(
            f"picture {name!r}: expected a file inside the image folder {root}, found {path}; move the picture into "
            "the folder, or choose the folder that holds all pictures",
            "path_outside",
        )
    return folder / name


def load_image(path: str | Path, *, respect_exif: bool = True) -> Image.Image:
    """Return the picture in a file as RGB, upright.

    The format is recognised by content, never by extension. Colours equal ``Image.open(path).convert("RGB")``, with
    the quirks that the published weights were trained on: alpha is dropped, so the hidden colour of a transparent
    pixel shows (in palettes too; nothing is composited), and 16-bit grey is clipped at 255, not scaled, so that it is
    mostly white. Of an animation, the first frame is returned. The file is closed.

    Args:
        path: The picture file.
        respect_exif: Turn the picture as its EXIF orientation says; damaged EXIF data is ignored. False reproduces
            the original, which shows the model such photographs lying on their side.

    Raises:
        RecordError: No file can be opened (picture_missing), or it is not a picture, is incomplete, or is so large that
            Pillow warns of a decompression bomb (picture_broken; ``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    with _open_picture(Path(path)) as picture:
        picture.load()
        # Unlike LLaVA: photographs of phones are turned upright; there they stay as the sensor lay.
        return to_rgb(_turn_upright(picture) if respect_exif else picture)


def decode_image(content: bytes, name: str) -> Image.Image:
    """Return the picture that `load_image` returns, of the bytes of its file.

    Args:
        content: The bytes.
        name: For messages.

    Raises:
        RecordError: As `load_image` for what it cannot read.
    """
    with _read_picture(io.BytesIO(content), name) as picture:
        picture.load()
        return to_rgb(_turn_upright(picture))


def check_picture(content: bytes, name: str) -> tuple[int, int]:
    """Return width and height of a picture that decodes as a whole.

    Args:
        content: The bytes of its file.
        name: For messages.

    Raises:
        RecordError: As `load_image` for what it cannot read.
    """
    with _read_picture(io.BytesIO(content), name) as picture:
        picture.load()
        return picture.size


def read_picture_size(path: str | Path, *, respect_exif: bool = True) -> tuple[int, int]:
    """Return width and height of the picture that `load_image` would return, without decoding its pixels.

    Only of a PNG file that tells its orientation behind its pixels are these decoded.

    Args:
        path: The picture file.
        respect_exif: As for `load_image`.

    Raises:
        RecordError: As `load_image`, except that damage behind the header goes unseen.
    """
    with _open_picture(Path(path)) as picture:
        # Pillow itself turns TIFF, whatever is asked for, and gives the size that comes of it.
        if picture.format == "TIFF" or not respect_exif:
            return picture.size
        if picture.format == "PNG" and "exif" not in picture.info:
            content = Path(path).read_bytes()
            if any(mark in content for mark in (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")):
                picture.load()
        stand_in = Image.new("1", (1, 2))
        stand_in.info = dict(picture.info)
        return picture.size if _turn_upright(stand_in).size == (1, 2) else picture.size[::-1]


@contextmanager
def _open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture file; what goes wrong, here or while it is read, becomes a `RecordError`."""
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        found = getattr(error, "strerror", None) or str(error)
        raise RecordError(
            f"cannot open picture {path}: expected a file, found: {found}; check its name and its folder",
            "picture_missing",
        ) from error
    with file, _read_picture(file, str(path)) as picture:
        yield picture


@contextmanager
def _read_picture(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Read a picture from its bytes; what goes wrong, here or in the block, becomes a `RecordError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as picture:
                yield picture
        except Exception as error:  # on damaged files Pillow raises anything from OSError to struct.error
            text = str(error).replace(repr(file), "it")  # another number in memory each time
            found = " ".join(f"{type(error).__name__}: {text}".split())
            raise RecordError(
                f"cannot read picture {name}: expected a complete picture of at most {Image.MAX_IMAGE_PIXELS} pixels, "
                f"found {file.seek(0, os.SEEK_END)} bytes ({found}); replace or shrink the file, or leave it out",
                "picture_broken",
            ) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Return a copy in RGB, without transparency."""
    if picture.mode == "P":
        # The same colours as straight to RGB, without Pillow's warning about palettes with many transparent entries.
        picture = picture.convert("RGBA")
    picture = picture.convert("RGB")
    # LLaVA: transparency is dropped. Pillow keeps a note of the transparent colour in RGB pictures; left there, the
    # processor of transformers 5 would put white in its place.
    picture.info.pop("transparency", None)
    return picture


def _turn_upright(picture: Image.Image) -> Image.Image:
    """Return the picture turned as its EXIF orientation says; as stored where the metadata is damaged."""
    # TypeError, struct.error or SyntaxError on damaged metadata; the pixels are sound, since they are loaded already.
    with suppress(Exception):
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would only be copied
            return ImageOps.exif_transpose(picture)
    return picture
