"""Pictures in words and numbers, which is all that a teacher gets to see of them.

In: COCO's annotations, or a file of JSON lines. Out: `Description` objects. No picture is opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json_lines, read_json_object
from llava_pl.types import InputError

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
        """As the teacher reads it, in the paper's form.

        >>> str(Box("dog", (0.25, 0.5, 0.75, 1.0)))
        'dog: [0.250, 0.500, 0.750, 1.000]'
        """
        return f"{self.category}: [{', '.join(f'{value:.3f}' for value in self.corners)}]"


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


def read_descriptions(path: Path) -> list[Description]:
    """Return the descriptions of a source, none of them empty.

    Args:
        path: A folder with COCO's ``captions_SPLIT.json`` and ``instances_SPLIT.json``, of one split or of several; or
            lines of ``{"image", "captions": [TEXT], "boxes": [{"category", "box": [LEFT, TOP, RIGHT, BOTTOM]}]}``, with
            corners as shares of width and height.

    Raises:
        InputError: The source cannot be read, a description is malformed, or a picture is described twice.
    """
    found = list(_read_coco(path) if path.is_dir() else _read_lines(path))
    if not found:
        raise InputError(f"{path}: expected descriptions, found none")
    seen: set[str] = set()
    for each in found:
        if each.image in seen:
            raise InputError(f"{path}: picture {each.image!r}: expected one description, found several; join them")
        seen.add(each.image)
    return found


def _read_lines(path: Path) -> Iterator[Description]:
    for where, row in read_json_lines(path):
        image, captions, boxes = row.get("image"), row.get("captions"), row.get("boxes", [])
        if not isinstance(image, str) or not image:
            raise InputError(f"{where}: field 'image': expected the name of a picture, found {image!r}")
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise InputError(f"{where}: field 'captions': expected a list of texts, found {captions!r}")
        if not isinstance(boxes, list):
            raise InputError(f"{where}: field 'boxes': expected a list, found {boxes!r}")
        texts = tuple(text for text in (" ".join(text.split()) for text in captions) if text)
        if not texts and not boxes:
            raise InputError(f"{where}: expected captions or boxes, found neither")
        yield Description(image, texts, tuple(_parse_box(box, where) for box in boxes))


def _parse_box(box: Any, where: str) -> Box:  # noqa: ANN401  JSON is any type until it is validated
    expected = '{"category": NAME, "box": [LEFT, TOP, RIGHT, BOTTOM]} with shares of width and height from 0 to 1'
    category, corners = (box.get("category"), box.get("box")) if isinstance(box, Mapping) else (None, None)
    if isinstance(category, str) and category and isinstance(corners, list):
        match [value for value in corners if isinstance(value, int | float) and not isinstance(value, bool)]:
            case [left, top, right, bottom] if 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1:
                return Box(category, (float(left), float(top), float(right), float(bottom)))
    raise InputError(f"{where}: field 'boxes': expected {expected}, found {box!r}")


def _read_coco(folder: Path) -> Iterator[Description]:
    splits = sorted(path.stem.removeprefix("captions_") for path in folder.glob(CAPTIONS_FILE.format("*")))
    if not splits:
        raise InputError(f"{folder}: expected COCO's captions_SPLIT.json and instances_SPLIT.json, found none")
    for split in splits:
        yield from _read_split(folder, split)


def _read_split(folder: Path, split: str) -> Iterator[Description]:
    """Yield the pictures of a split that have captions, by number."""
    paths = [folder / name.format(split) for name in (CAPTIONS_FILE, BOXES_FILE)]
    contents = [read_json_object(path) for path in paths]
    try:
        pictures = {picture["id"]: picture for picture in contents[0]["images"]}
        categories = {category["id"]: category["name"] for category in contents[1]["categories"]}
        captions = _by_picture(contents[0]["annotations"])
        boxes = _by_picture(contents[1]["annotations"])
        for number in sorted(captions):
            picture = pictures[number]
            texts = tuple(" ".join(each["caption"].split()) for each in captions[number])
            found = tuple(_scale_box(each, categories, picture) for each in boxes.get(number, ()))
            yield Description(picture["file_name"], texts, found)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InputError(
            f"{paths[0]} and {paths[1].name}: expected annotations as COCO's, found something else "
            f"({type(error).__name__}: {error})"
        ) from error


def _by_picture(annotations: Sequence[Mapping[str, Any]]) -> Mapping[int, list[Mapping[str, Any]]]:
    found = defaultdict(list)
    for each in sorted(annotations, key=lambda each: each["id"]):
        found[each["image_id"]].append(each)
    return found


def _scale_box(annotation: Mapping[str, Any], categories: Mapping[int, str], picture: Mapping[str, Any]) -> Box:
    """Return a box of COCO's: left, top, width and height in pixels."""
    left, top, width, height = annotation["bbox"]
    across, down = picture["width"], picture["height"]
    corners = (left / across, top / down, (left + width) / across, (top + height) / down)
    within = tuple(min(max(value, 0.0), 1.0) for value in corners)
    return Box(categories[annotation["category_id"]], within, bool(annotation.get("iscrowd")))
