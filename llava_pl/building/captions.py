"""Captions in the forms in which collections of them are handed on, one at a time.

In: a path. Out: `Caption` objects in the order of the source: each names its picture and says where the bytes of it
lie. Nothing is checked but the form, and no picture is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_pl.building.csv_cells import read_cells
from llava_pl.building.shards import PICTURE_ENDINGS, find_shards, read_shard
from llava_pl.data.picture_files import find_picture
from llava_pl.data.sources import read_entries
from llava_pl.types import InputError

FIELDS = ("caption", "text", "blip_caption")
"""What a caption may be called: the first of these that says something is taken."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A picture and what was written about it.

    Args:
        where: File and line, index or name, for messages.
        image: Name of the picture in records.
        text: The caption with single spaces; "" where there is none.
        file: File that holds the picture's bytes.
        offset: Where they begin in it.
        num_bytes: How many they are; -1 for all up to its end.
    """

    where: str
    image: str
    text: str
    file: Path
    offset: int = 0
    num_bytes: int = -1

    def read_picture(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            OSError: The file cannot be read.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)


def read_captions(path: Path, image_folder: Path | None = None) -> Iterator[Caption]:
    """Yield the captions of a source.

    Args:
        path: A folder of pictures, each beside a file NAME.txt; shards as img2dataset writes them, NAME.tar or a folder
            of them; a table without a head as CC3M's (.tsv: caption, tab, picture); one with a head (.csv), or JSON
            (.json, .jsonl), with a column ``image`` and one of `FIELDS`.
        image_folder: Folder that the names of pictures in tables and JSON start from.

    Raises:
        InputError: The source cannot be read, or is of another form.
    """
    shards = find_shards(path)
    if shards:
        for shard in shards:
            yield from _read_shard(shard)
    elif path.is_dir():
        yield from _read_folder(path)
    elif image_folder is None:
        raise InputError(f"{path}: expected --image_folder with it, the folder that names of pictures start from")
    else:
        for where, row in _read_rows(path):
            image = row.get("image")
            if not isinstance(image, str) or not image:
                raise InputError(f"{where}: field 'image': expected the name of a picture, found {image!r}")
            if "://" in image:
                raise InputError(
                    f"{where}: field 'image': expected a file in {image_folder}, found an address ({image}); get the "
                    "pictures first, with img2dataset for one, and give its folder"
                )
            yield Caption(where, image, _find_text(row), find_picture(image_folder, image))


def _read_shard(shard: Path) -> Iterator[Caption]:
    for sample in read_shard(shard):
        if sample.picture is not None:
            ending, offset, num_bytes = sample.picture
            text = _tidy(sample.text) or _find_text(sample.fields)
            image = f"{shard.stem}/{sample.name}.{ending}"
            yield Caption(f"{shard}: {sample.name}", image, text, shard, offset, num_bytes)


def _read_folder(folder: Path) -> Iterator[Caption]:
    pictures = sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in PICTURE_ENDINGS)
    if not any(picture.with_suffix(".txt").is_file() for picture in pictures):
        raise InputError(f"{folder}: expected pictures, each beside a file NAME.txt, or shards NAME.tar; found neither")
    for picture in pictures:
        path = picture.with_suffix(".txt")
        yield Caption(str(picture), picture.relative_to(folder).as_posix(), _read_text(path), picture)


def _read_text(path: Path) -> str:
    try:
        return _tidy(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    if path.suffix == ".tsv":
        yield from _read_table(path)
    elif path.suffix == ".csv":
        yield from read_cells(path, ("image",))
    else:
        for index, entry in enumerate(read_entries(path)):
            where = f"{path}: record {index}"
            if not isinstance(entry, dict):
                raise InputError(f"{where}: expected an object, found {type(entry).__name__}")
            yield where, entry


def _read_table(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the rows of a table as CC3M's: without a head and without quotes, which are part of captions."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                cells = line.rstrip("\r\n").split("\t")
                if len(cells) != 2:
                    raise InputError(
                        f"{path}: line {number}: expected 2 cells (caption, tab, picture), found {len(cells)}"
                    )
                yield f"{path}: line {number}", {"caption": cells[0], "image": cells[1]}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _find_text(row: Mapping[str, object]) -> str:
    return next((text for name in FIELDS if (text := _tidy(str(row.get(name) or "")))), "")


def _tidy(text: str) -> str:
    return " ".join(text.split())
