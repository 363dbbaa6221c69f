"""Guards what pictures are called: one that is no file of a folder, or that is there by its bytes and would be lost."""

import pytest

from llava_pl.building.entry_pictures import as_names, check_names, name_of_part
from llava_pl.types import RecordError


def test_names_of_a_field():
    assert as_names(None, "x") == as_names([], "x") == as_names("", "x") == []
    assert as_names("a.png", "x") == as_names({"bytes": None, "path": "a.png"}, "x") == ["a.png"]
    assert as_names(["a.png", {"path": "b.png"}, {}, 7], "x") == ["a.png", "b.png", None, 7]
    with pytest.raises(RecordError, match=r"^x: picture 1: expected the name of a file, found the bytes of a picture"):
        as_names(["a.png", {"bytes": b"1", "path": "b.png"}], "x")


def test_names_of_parts():
    assert name_of_part({"type": "image", "path": "a.png"}, "x") == "a.png"
    assert name_of_part({"type": "image", "image": {"bytes": None, "path": "a.png"}}, "x") == "a.png"
    assert name_of_part({"type": "image"}, "x") is name_of_part("text", "x") is None
    for part in ({"type": "image_url"}, {"type": "text", "image_url": {"url": "https://a/b.png"}}):
        with pytest.raises(
            RecordError, match=r"^x: expected pictures by the names of their files, found an 'image_url'"
        ):
            name_of_part(part, "x")


def test_names_inside_a_folder():
    check_names(["a.png", "coco/train/b.png", "./a.png", "a..png", "12:30.png", "caf\u00e9 1.png", "data/a.png"])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("https://example.org/a.png", "an address"),
        ("S3://bucket/a.png", "an address"),
        ("file:///tmp/a.png", "an address"),
        ("data:image/png;base64,AAAA", "an address or the picture itself"),
        ("/tmp/a.png", "an absolute path"),
        ("C:\\pictures\\a.png", "an absolute path"),
        ("../a.png", "a path with '..'"),
        ("a/../../b.png", "a path with '..'"),
        ("a\\..\\b.png", "a path with '..'"),
    ],
)
def test_what_is_no_name(name, found):
    with pytest.raises(RecordError) as caught:
        check_names(["a.png", name])
    assert f"expected the name of a file in the image folder, found {found}" in str(caught.value)
    assert caught.value.reason == "path_outside"


def test_long_names_are_cut():
    with pytest.raises(RecordError) as caught:
        check_names(["data:" + "A" * 10_000])
    assert len(str(caught.value)) < 300
