"""Guards descriptions: a box in the wrong place, a picture that gets another one's captions."""

import copy
import itertools
import json

import pytest

from llava_pl.building.descriptions import Box, Description, draw_descriptions, read_descriptions
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
    found, num_empty = read_descriptions(tmp_path)
    assert num_empty == 1
    assert found == [
        Description("a.jpg", ("Two dogs.",), (Box("dog", (0.0, 0.0, 0.5, 1.0), is_crowd=True),)),
        Description("b.jpg", ("On a sofa.", "A cat sleeps."), (Box("cat", (0.1, 0.5, 0.6, 1.0)),)),
    ]


def test_a_picture_that_one_of_the_files_has_alone(tmp_path):
    told, boxed = copy.deepcopy(CAPTIONS), copy.deepcopy(BOXES)
    told["images"], told["annotations"] = told["images"][:1], told["annotations"][::2]
    boxed["images"] = boxed["images"][1:]
    for name, content in {"captions_val.json": told, "instances_val.json": boxed}.items():
        (tmp_path / name).write_text(json.dumps(content))
    found, num_empty = read_descriptions(tmp_path)
    assert num_empty == 1  # none.jpg
    assert [each.image for each in found] == ["a.jpg", "b.jpg"]
    assert found[0].text == "dog (group): [0.000, 0.000, 0.500, 1.000]"


def test_one_split_at_a_time(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"captions_{split}.json").write_text(json.dumps(CAPTIONS).replace("a.jpg", f"{split}.jpg"))
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(BOXES))
    for split in ("train", "val"):
        assert [each.image for each in read_descriptions(tmp_path, split)[0]] == [f"{split}.jpg", "b.jpg"]
    for split in (None, "test"):
        with pytest.raises(InputError) as caught:
            read_descriptions(tmp_path, split)
        assert str(caught.value) == f"--split: expected one that {tmp_path} has, train, val; found {split or 'none'}"
    (tmp_path / "d.jsonl").write_text('{"image": "a", "captions": ["x"]}')
    with pytest.raises(InputError, match="--split: expected a folder of COCO's annotations with it, found "):
        read_descriptions(tmp_path / "d.jsonl", "val")


def test_lines(tmp_path):
    rows = [
        {"image": "a.png", "captions": ["Two  dogs."], "boxes": [{"category": "dog", "box": [0, 0.25, 1, 0.5]}]},
        {"image": "b.png", "captions": [" "], "boxes": [{"category": "cat", "box": [0, 0, 0, 0]}]},
        {"image": "c.png", "captions": ["A cat."]},
        {"image": "d.png", "captions": [" \n"]},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, num_empty = read_descriptions(tmp_path / "d.jsonl")
    assert num_empty == 1
    assert [each.text for each in found] == [
        "Two dogs.\n\ndog: [0.000, 0.250, 1.000, 0.500]",
        "cat: [0.000, 0.000, 0.000, 0.000]",
        "A cat.",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *(
            ({"image": name, "captions": ["x"]}, "line 1: expected the name of a picture in a folder, found ")
            for name in (None, 7, "", ".", "/", "a/", "a/.", "a\0.jpg", "\ud83d.jpg")
        ),
        *(
            ({"image": name, "captions": ["x"]}, f"line 1: picture {name!r}: expected the name of a file")
            for name in ("../../etc/passwd", "/etc/passwd", "https://x.y/a.jpg", r"C:\pics\a.jpg", "a/..")
        ),
        ({"image": "a", "captions": "x"}, "line 1: field 'captions': expected a list of texts, found 'x'"),
        ({"image": "a", "captions": [3]}, "line 1: field 'captions': expected a text, found 3"),
        ({"image": "a", "captions": ["\ud83d"]}, "line 1: field 'captions': expected a text, found half a character"),
        ({"image": "a", "captions": [""]}, "expected pictures with captions or boxes, found none"),
        ({"image": "a", "captions": [], "boxes": {}}, "line 1: field 'boxes': expected a list, found {}"),
        ({"image": "a", "captions": [], "boxes": [[1]]}, "line 1: field 'boxes': expected {"),
        *(
            ({"image": "a", "captions": [], "boxes": [{"category": name, "box": box}]}, "line 1: field '")
            for name, box in [
                ("", [0, 0, 1, 1]), ("\n", [0, 0, 1, 1]), ("dog", [0, 0, 1, 1, 1]), ("dog", [0, 0, 1, float("nan")]),
                ("dog", [0, 0, 1, 1, "x"]), ("dog", [0, 0, 1]), ("dog", [0, 0, 1, 1.5]), ("dog", [0.5, 0, 0.2, 1]),
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
    with pytest.raises(InputError, match=r"instances_val\.json: field 'annotations': expected a list as COCO's"):
        read_descriptions(tmp_path)


@pytest.mark.parametrize(
    ("file", "key", "change", "message"),
    [
        ("captions", "images", {"file_name": 7}, "captions_val.json: images: id 9: expected the name of a picture"),
        ("captions", "images", {"id": 4}, "captions_val.json: images: expected objects, each with an id of its own"),
        ("captions", "images", {"id": None}, "captions_val.json: images: expected objects, each with an id of its own"),
        ("captions", "images", {"id": 6}, "captions_val.json: images: id 9: expected the picture of captions or boxes"),
        ("captions", "images", {"width": 0}, "instances_val.json: annotations: id 8: field 'bbox': expected"),
        ("captions", "images", {"width": True}, "instances_val.json: annotations: id 8: field 'bbox': expected"),
        ("captions", "annotations", {"caption": None}, "field 'captions': expected a text, found None"),
        ("captions", "annotations", {"image_id": [1]}, "annotations: id 3: field 'image_id': expected a number"),
        ("boxes", "categories", {"name": None}, "categories: id 17: field 'category': expected a text, found None"),
        ("boxes", "categories", {"name": 5}, "categories: id 17: field 'category': expected a text, found 5"),
        ("boxes", "categories", {"name": " "}, "categories: id 17: field 'category': expected a name, found ' '"),
        ("boxes", "annotations", {"category_id": 99}, "annotations: id 8: field 'category_id': expected one of"),
        *(
            ("boxes", "annotations", {"bbox": box}, "instances_val.json: annotations: id 8: field 'bbox': expected")
            for box in ([float("nan"), 1, 2, 3], [90, 90, -50, 5], [1, 2, 3], ["1", 2, 3, 4], None, [0, 0, 10**400, 1])
        ),
    ],
)
def test_what_is_wrong_in_coco_is_named(file, key, change, message, tmp_path):
    contents = copy.deepcopy({"captions": CAPTIONS, "boxes": BOXES})
    contents[file][key][0] |= change
    (tmp_path / "captions_val.json").write_text(json.dumps(contents["captions"]))
    (tmp_path / "instances_val.json").write_text(json.dumps(contents["boxes"]))
    with pytest.raises(InputError) as caught:
        read_descriptions(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_smaller_draw_is_part_of_a_larger_one():
    every = [Description(f"{n}.png", ("A dog.",)) for n in range(20)]
    draws = [draw_descriptions(every, limit, 0) for limit in range(1, 22)]
    assert [len(draw) for draw in draws] == [*range(1, 21), 20]
    for smaller, larger in itertools.pairwise(draws):
        assert smaller == [each for each in larger if each in smaller]
    assert draw_descriptions(every, None, 0) == every
    assert draw_descriptions(every, 10, 1) != draws[9]
