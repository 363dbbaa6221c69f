"""Pictures in words and numbers, which is all that a teacher gets to see of them.

In: COCO's annotations, or a file of JSON lines. Out: `Description` objects. No picture is opened.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from llava_pl.building.entry_pictures import check_names
from llava_pl.data.json_files import read_json_lines, read_json_object
from llava_pl.types import InputError, RecordError

CAPTIONS_FILE, BOXES_FILE = "captions_{}.json", "instances_{}.json"


@dataclass(frozen=True, slots=True)
class Box:
    """One object, or a crowd of them.

    Args:
        category: What it is called.
        corners: Left, top, right and bottom as shares of the picture's width and height, 0 to 1.
        is_crowd: Whether it is around several, which were not counted.
    """

    category: str
    corners: tuple[float, float, float, float]
    is_crowd: bool = False

    def __str__(self) -> str:
        """As the teacher reads it: in the paper's form, and whether it is a crowd.

        >>> str(Box("dog", (0.25, 0.5, 0.75, 1.0))), str(Box("dog", (0.0, 0.0, 1.0, 1.0), is_crowd=True))
        ('dog: [0.250, 0.500, 0.750, 1.000]', 'dog (group): [0.000, 0.000, 1.000, 1.000]')
        """
        return f"{self.category}{' (group)' * self.is_crowd}: [{', '.join(f'{value:.3f}' for value in self.corners)}]"


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a picture.

    Args:
        image: Its name in records.
        captions: Sentences about it.
        boxes: What is in it and where.
    """

    image: str
    captions: tuple[str, ...]
    boxes: tuple[Box, ...] = ()

    @property
    def text(self) -> str:
        """All of it, as the teacher reads it: captions, an empty line, boxes."""
        return "\n\n".join("\n".join(map(str, part)) for part in (self.captions, self.boxes) if part)


def read_descriptions(path: Path, split: str | None = None) -> tuple[list[Description], int]:
    """Return the descriptions of a source that say something, and of how many pictures there is neither text nor box.

    Args:
        path: A folder with COCO's ``captions_SPLIT.json`` and ``instances_SPLIT.json``; or lines of
            ``{"image", "captions": [TEXT], "boxes": [{"category", "box": [LEFT, TOP, RIGHT, BOTTOM]}]}``, with corners
            as shares of width and height.
        split: Which of a folder's splits; None where it has one.

    Raises:
        InputError: The source cannot be read, there are several splits and none is chosen, a description is malformed,
            or a picture is described twice.
    """
    found = list(_read_coco(path, split) if path.is_dir() else _read_lines(path, split))
    seen: set[str] = set()
    for each in found:
        if each.image in seen:
            raise InputError(f"{path}: picture {each.image!r}: expected one description, found several; join them")
        seen.add(each.image)
    told = [each for each in found if each.text]
    if not told:
        raise InputError(f"{path}: expected pictures with captions or boxes, found none")
    return told, len(found) - len(told)


def draw_descriptions(descriptions: list[Description], limit: int | None, seed: int) -> list[Description]:
    """Return some of the descriptions, in their order; a smaller draw is part of a larger one.

    Args:
        descriptions: Of pictures with different names.
        limit: How many; None for all.
        seed: Of the draw.
    """
    by_chance = sorted(descriptions, key=lambda each: sha256(f"{seed} {each.image}".encode()).digest())
    drawn = {each.image for each in by_chance[:limit]}
    return [each for each in descriptions if each.image in drawn]


def _describe(image: object, captions: object, boxes: list[Box], where: str) -> Description:
    """Return a description of either source, checked."""
    if not isinstance(image, str) or not _is_file_name(image):
        raise InputError(f"{where}: expected the name of a picture in a folder, found {image!r}")
    try:
        check_names([image])
    except RecordError as error:
        raise InputError(f"{where}: {error}") from error
    if not isinstance(captions, list):
        raise InputError(f"{where}: field 'captions': expected a list of texts, found {captions!r}")
    texts = (_read_text(text, "captions", where) for text in captions)
    return Description(image, tuple(text for text in texts if text), tuple(boxes))


def _is_file_name(name: str) -> bool:
    """Return whether a name is no folder's and has nothing that no file's has."""
    is_file = name.rpartition("/")[2] not in ("", ".")
    return is_file and not any(unicodedata.category(each) in ("Cc", "Cs") for each in name)


def _read_text(text: object, field: str, where: str) -> str:
    """Return a text on one line, "" if there is none."""
    if not isinstance(text, str):
        raise InputError(f"{where}: field '{field}': expected a text, found {text!r}")
    if any(unicodedata.category(each) == "Cs" for each in text):
        raise InputError(f"{where}: field '{field}': expected a text, found half a character in {text!r}")
    return " ".join(text.split())


def _read_category(name: object, where: str) -> str:
    if not (category := _read_text(name, "category", where)):
        raise InputError(f"{where}: field 'category': expected a name, found {name!r}")
    return category


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # NaN is not


def _read_lines(path: Path, split: str | None) -> Iterator[Description]:
    if split is not None:
        raise InputError(f"--split: expected a folder of COCO's annotations with it, found {path}; leave it out")
    for where, row in read_json_lines(path):
        boxes = row.get("boxes", [])
        if not isinstance(boxes, list):
            raise InputError(f"{where}: field 'boxes': expected a list, found {boxes!r}")
        yield _describe(row.get("image"), row.get("captions"), [_parse_box(box, where) for box in boxes], where)


def _parse_box(box: object, where: str) -> Box:
    match box:
        case {"category": category, "box": [left, top, right, bottom] as corners} if all(map(_is_number, corners)):
            if 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1:
                return Box(_read_category(category, where), (float(left), float(top), float(right), float(bottom)))
    expected = '{"category": NAME, "box": [LEFT, TOP, RIGHT, BOTTOM]} with shares of width and height from 0 to 1'
    raise InputError(f"{where}: field 'boxes': expected {expected}, found {box!r}")


def _read_coco(folder: Path, split: str | None) -> Iterator[Description]:
    splits = sorted(path.stem.removeprefix("captions_") for path in folder.glob(CAPTIONS_FILE.format("*")))
    if not splits:
        raise InputError(f"{folder}: expected COCO's captions_SPLIT.json and instances_SPLIT.json, found none")
    if split not in splits and (split is not None or len(splits) > 1):
        # Together, a model would be trained on what it is validated with, and no folder holds all pictures.
        raise InputError(f"--split: expected one that {folder} has, {', '.join(splits)}; found {split or 'none'}")
    chosen = split or splits[0]
    return _read_split(folder / CAPTIONS_FILE.format(chosen), folder / BOXES_FILE.format(chosen))


def _read_split(captions_path: Path, boxes_path: Path) -> Iterator[Description]:
    """Yield all pictures of a split by number, whether or not either file has something of them."""
    told, boxed = read_json_object(captions_path), read_json_object(boxes_path)
    captions = _by_picture(_read_numbered(told, "annotations", captions_path), captions_path)
    boxes = _by_picture(_read_numbered(boxed, "annotations", boxes_path), boxes_path)
    categories = {
        number: _read_category(each.get("name"), f"{boxes_path}: categories: id {number}")
        for number, each in _read_numbered(boxed, "categories", boxes_path).items()
    }
    pictures = _read_numbered(told, "images", captions_path)
    pictures = {**_read_numbered(boxed, "images", boxes_path), **pictures}
    for number in sorted(pictures.keys() | captions.keys() | boxes.keys()):
        where = f"{captions_path}: images: id {number}"
        if (picture := pictures.get(number)) is None:
            raise InputError(f"{where}: expected the picture of captions or boxes, found none")
        texts = [each.get("caption") for _, each in captions.get(number, ())]
        scaled = [_scale_box(each, categories, picture, at) for at, each in boxes.get(number, ())]
        yield _describe(picture.get("file_name"), texts, scaled, where)


def _read_numbered(content: Mapping[str, Any], key: str, path: Path) -> dict[int, Mapping[str, Any]]:
    """Return the objects of a list of COCO's by their ``id``, sorted."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise InputError(f"{path}: field '{key}': expected a list as COCO's, found {type(entries).__name__}")
    found: dict[int, Mapping[str, Any]] = {}
    for each in entries:
        number = each.get("id") if isinstance(each, Mapping) else None
        if not isinstance(number, int) or number in found:
            raise InputError(f"{path}: {key}: expected objects, each with an id of its own, found {str(each)[:200]}")
        found[number] = each
    return dict(sorted(found.items()))


def _by_picture(annotations: Mapping[int, Mapping[str, Any]], path: Path) -> dict[int, list[tuple[str, Any]]]:
    """Return annotations by the number of their picture, each with where it stands."""
    found: defaultdict[int, list[tuple[str, Any]]] = defaultdict(list)
    for number, each in annotations.items():
        where = f"{path}: annotations: id {number}"
        if not isinstance(picture := each.get("image_id"), int):
            raise InputError(f"{where}: field 'image_id': expected a number, found {picture!r}")
        found[picture].append((where, each))
    return found


def _scale_box(
    annotation: Mapping[str, Any], categories: Mapping[int, str], picture: Mapping[str, Any], where: str
) -> Box:
    """Return a box of COCO's: left, top, width and height in pixels."""
    box: Any = annotation.get("bbox")
    across: Any = picture.get("width")
    down: Any = picture.get("height")
    is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_number, (*box, across, down)))
    if not is_box or min(box[2:]) < 0 or min(across, down) <= 0:
        raise InputError(
            f"{where}: field 'bbox': expected [LEFT, TOP, WIDTH, HEIGHT] in a picture with width and height, found "
            f"{box!r} in {across!r} x {down!r}"
        )
    left, top, width, height = box
    number = annotation.get("category_id")
    if not isinstance(number, int) or number not in categories:
        raise InputError(f"{where}: field 'category_id': expected one of the file's categories, found {number!r}")
    shares = (left / across, top / down, (left + width) / across, (top + height) / down)
    left, top, right, bottom = (min(max(share, 0.0), 1.0) for share in shares)
    return Box(categories[number], (left, top, right, bottom), bool(annotation.get("iscrowd")))
