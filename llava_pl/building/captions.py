"""Captions in the forms in which collections of them are handed on, one at a time.

In: a path. Out: `Caption` objects in the order of the source: each names its picture and says where the bytes of it
lie. Nothing is checked but the form, and no picture is opened; a caption that is wrong says so, and others go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llava_pl.building.csv_cells import read_cells
from llava_pl.building.shards import PICTURE_ENDINGS, find_shards, read_shard
from llava_pl.data.picture_files import find_picture
from llava_pl.data.sources import read_entries
from llava_pl.types import InputError, RecordError

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
        id: Of its record, where the source gives one.
        reason: What is wrong with the form of it, in a word as of `RecordError`; "" if nothing is.
        message: The same in a line.
    """

    where: str
    image: str
    text: str
    file: Path
    offset: int = 0
    num_bytes: int = -1
    id: str = ""
    reason: str = ""
    message: str = ""

    def read_picture(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            OSError: The file cannot be read.
            ValueError: No file can have this name.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)


def read_captions(path: Path, image_folder: Path | None = None, *, delimiter: str = ",") -> Iterator[Caption]:
    """Yield the captions of a source.

    Args:
        path: A folder of pictures, each beside a file NAME.txt; shards as img2dataset writes them, NAME.tar or a folder
            of them; a table without a head as CC3M's (.tsv: caption, tab, picture); one with a head (.csv), or JSON
            (.json, .jsonl) or parquet, with a column ``image`` and one of `FIELDS`.
        image_folder: Folder that the names of pictures in tables and JSON start from.
        delimiter: The character between two cells of a table with a head.

    Raises:
        InputError: The source cannot be read, or is of another form.
    """
    shards = find_shards(path)
    if shards:
        for shard in shards:
            yield from _read_shard(shard)
    elif path.is_dir():
        yield from _read_folder(path)
    elif not path.exists():
        raise InputError(f"{path}: cannot be read (No such file or directory); check the path")
    elif image_folder is None:
        raise InputError(f"{path}: expected --image_folder with it, the folder that names of pictures start from")
    elif not image_folder.is_dir():
        found = "a file" if image_folder.exists() else "nothing"
        raise InputError(f"--image_folder: {image_folder}: expected a folder, found {found}")
    else:
        for where, row in _read_rows(path, delimiter):
            yield _read_row(where, row, image_folder)


def locate(error: RecordError, where: str) -> str:
    """Return the line of an error with its place in front, once."""
    return str(error) if str(error).startswith(where) else f"{where}: {error}"


def _read_row(where: str, row: object, image_folder: Path) -> Caption:
    """Return the caption in a row of a table or a JSON object."""
    fields = row if isinstance(row, Mapping) else {}
    image, number = fields.get("image"), fields.get("id")
    name = image if isinstance(image, str) else ""
    if "://" in name:
        raise InputError(
            f"{where}: field 'image': expected a file in {image_folder}, found an address ({name}); get the pictures "
            "first, with img2dataset for one, and give its folder"
        )
    try:
        if not name:
            raise RecordError(f"expected a caption and 'image', the name of a picture, found {row!r:.100}")
        text = _find_text(fields)
        file = find_picture(image_folder, name)
    except RecordError as error:
        return Caption(where, name, "", image_folder, reason=error.reason, message=locate(error, where))
    return Caption(where, name, text, file, id=str(number) if isinstance(number, str | int) else "")


def _read_shard(shard: Path) -> Iterator[Caption]:
    seen: Counter[str] = Counter()
    for sample in read_shard(shard):
        ending, offset, num_bytes = sample.picture or ("none", 0, 0)
        where, image = f"{shard}: {sample.name}", f"{shard.stem}/{sample.name}.{ending}"
        seen[image] += 1
        if seen[image] > 1:  # two pictures of one name would be copied out to one file
            image = f"{shard.stem}/{sample.name}-{seen[image]}.{ending}"
        try:
            if ".." in PurePosixPath(image).parts:
                raise RecordError("expected a name inside the shard, found one that leads out of it", "path_outside")
            if sample.picture is None:
                raise RecordError("expected a picture, found none", "picture_missing")
            if sample.fault:
                raise RecordError(sample.fault)
            text = _tidy(sample.text) or (_find_text(sample.fields) if sample.fields else "")
            yield Caption(where, image, text, shard, offset, num_bytes)
        except RecordError as error:
            yield Caption(where, image, "", shard, reason=error.reason, message=locate(error, where))


def _read_folder(folder: Path) -> Iterator[Caption]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    pictures = [path for path in paths if path.suffix[1:].lower() in PICTURE_ENDINGS]
    texts = [_find_beside(picture) for picture in pictures]
    if not any(texts):
        raise InputError(f"{folder}: expected pictures, each beside a file NAME.txt, or shards NAME.tar; found neither")
    for picture, text in zip(pictures, texts, strict=True):
        where, name = str(picture), picture.relative_to(folder).as_posix()
        try:
            find_picture(folder, name)
            yield Caption(where, name, _read_text(text) if text else "", picture)
        except RecordError as error:
            yield Caption(where, name, "", picture, reason=error.reason, message=locate(error, where))
    names = {picture.with_suffix("") for picture in pictures}
    for path in paths:
        if path.suffix.lower() == ".txt" and path.with_suffix("") not in names:
            message = f"{path}: expected a picture beside it, found none"
            image = path.relative_to(folder).as_posix()
            yield Caption(str(path), image, "", path, reason="picture_missing", message=message)


def _find_beside(picture: Path) -> Path | None:
    paths = (picture.with_suffix(ending) for ending in (".txt", ".TXT"))
    return next((path for path in paths if path.is_file()), None)


def _read_text(path: Path) -> str:
    try:
        return _tidy(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _read_rows(path: Path, delimiter: str) -> Iterator[tuple[str, object]]:
    match path.suffix.lower():
        case ".tsv":
            yield from _read_table(path)
        case ".csv":
            yield from read_cells(path, ("image",), delimiter)
        case _:
            for index, entry in enumerate(read_entries(path, fields=("id", "image", *FIELDS))):
                yield f"{path}: record {index}", entry


def _read_table(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the rows of a table as CC3M's: without a head and without quotes, which are part of captions."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                cells = line.rstrip("\r\n").split("\t")
                if any(cells):
                    is_row = len(cells) == 2
                    yield f"{path}: line {number}", {"caption": cells[0], "image": cells[1]} if is_row else cells
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _find_text(fields: Mapping[str, object]) -> str:
    """Return the caption that an object holds, "" where it is empty.

    Raises:
        RecordError: It has no place for one, or something else stands there.
    """
    if not any(name in fields for name in FIELDS):
        raise RecordError(f"expected one of {', '.join(FIELDS)}, found {', '.join(map(str, fields))}")
    for name in FIELDS:
        value = fields.get(name)
        if value is not None and not isinstance(value, str):
            raise RecordError(f"field {name!r}: expected a text, found {type(value).__name__}")
        if value and (text := _tidy(value)):
            return text
    return ""


def _tidy(text: str) -> str:
    return " ".join(text.split())
