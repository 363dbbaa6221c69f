"""Guards descriptions: a box in the wrong place, a picture that gets another one's captions."""

import json

import pytest

from llava_pl.building.descriptions import Box, Description, read_descriptions
from llava_pl.types import InputError

CAPTIONS = {
    "images": [
        {"id": 9, "file_name": "b.jpg", "width": 200, "height": 100},
        {"id": 4, "file_name": "a.jpg", "width": 100, "height": 100},
        {"id": 5, "file_name": "none.jpg", "width": 1, "height": 1},
    ],
    "annotations": [
        {"id": 3, "image_id": 9, "caption": "A cat\nsleeps. "},
        {"id": 1, "image_id": 4, "caption": "Two dogs."},
        {"id": 2, "image_id": 9, "caption": "On a sofa."},
    ],
}
BOXES = {
    "images": CAPTIONS["images"],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"id": 8, "image_id": 9, "category_id": 17, "bbox": [20, 50, 100, 50.01], "iscrowd": 0},
        {"id": 7, "image_id": 4, "category_id": 18, "bbox": [0, 0, 50, 100], "iscrowd": 1},
    ],
}


def test_coco(tmp_path):
    for name, content in {"captions_val.json": CAPTIONS, "instances_val.json": BOXES}.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_descriptions(tmp_path) == [
        Description("a.jpg", ("Two dogs.",), (Box("dog", (0.0, 0.0, 0.5, 1.0), is_crowd=True),)),
        Description("b.jpg", ("On a sofa.", "A cat sleeps."), (Box("cat", (0.1, 0.5, 0.6, 1.0)),)),
    ]


def test_lines(tmp_path):
    rows = [
        {"image": "a.png", "captions": ["Two  dogs."], "boxes": [{"category": "dog", "box": [0, 0.25, 1, 0.5]}]},
        {"image": "b.png", "captions": [" "], "boxes": [{"category": "cat", "box": [0, 0, 0, 0]}]},
        {"image": "c.png", "captions": ["A cat."]},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_descriptions(tmp_path / "d.jsonl")
    assert [each.text for each in found] == [
        "Two dogs.\n\ndog: [0.000, 0.250, 1.000, 0.500]",
        "cat: [0.000, 0.000, 0.000, 0.000]",
        "A cat.",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"captions": ["x"]}, "line 1: field 'image': expected the name of a picture, found None"),
        ({"image": "a", "captions": "x"}, "line 1: field 'captions': expected a list of texts, found 'x'"),
        ({"image": "a", "captions": [3]}, "line 1: field 'captions': expected a list of texts, found [3]"),
        ({"image": "a", "captions": [""]}, "line 1: expected captions or boxes, found neither"),
        ({"image": "a", "captions": [], "boxes": {}}, "line 1: field 'boxes': expected a list, found {}"),
        ({"image": "a", "captions": [], "boxes": [[1]]}, "line 1: field 'boxes': expected {"),
        *(
            ({"image": "a", "captions": [], "boxes": [{"category": name, "box": box}]}, "line 1: field 'boxes'")
            for name, box in [
                ("", [0, 0, 1, 1]), ("dog", [0, 0, 1]), ("dog", [0, 0, 1, 1.5]), ("dog", [0.5, 0, 0.2, 1]),
                ("dog", [0, 0, 1, "1"]), ("dog", [True, 0, 1, 1]), (3, [0, 0, 1, 1]),
            ]
        ),
    ],
)  # fmt: skip
def test_what_is_none(row, message, tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError) as caught:
        read_descriptions(tmp_path / "d.jsonl")
    assert str(caught.value).startswith(f"{tmp_path / 'd.jsonl'}: {message}")


def test_a_picture_twice(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"image": "a", "captions": ["x"]}\n' * 2)
    with pytest.raises(InputError, match="picture 'a': expected one description, found several"):
        read_descriptions(tmp_path / "d.jsonl")


def test_what_is_no_coco(tmp_path):
    with pytest.raises(InputError, match=r"expected COCO's captions_SPLIT\.json and instances_SPLIT\.json, found none"):
        read_descriptions(tmp_path)
    (tmp_path / "captions_val.json").write_text(json.dumps(CAPTIONS))
    with pytest.raises(InputError, match=r"instances_val\.json: cannot be read"):
        read_descriptions(tmp_path)
    (tmp_path / "instances_val.json").write_text("{}")
    with pytest.raises(InputError, match=r"expected annotations as COCO's, found something else \(KeyError"):
        read_descriptions(tmp_path)
