"""Guards: a picture that is there and is called missing stops a run; one that is missing, and is not, stops it late."""

import json

import pytest

from llava_pl.data import presence
from llava_pl.data.presence import LISTED_FROM, find_missing
from llava_pl.data.store_cache import open_store


def record(name, images) -> dict:
    if images is None:
        return {"id": name, "conversations": [{"from": "gpt", "value": "Hi"}]}
    marks = "<image>" * (len(images) if isinstance(images, list) else 1)
    turns = [{"from": "human", "value": marks}, {"from": "gpt", "value": "Hi"}]
    return {"id": name, "image": images, "conversations": turns}


@pytest.fixture
def find(tmp_path):
    def find(*images) -> dict[int, str]:
        entries = [record(str(number), each) for number, each in enumerate(images)]
        (tmp_path / "records.json").write_text(json.dumps(entries))
        return find_missing(open_store(tmp_path / "records.json", tmp_path / "cache"), tmp_path / "pictures")

    (tmp_path / "pictures" / "deep" / "er").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "deep/er/c.png"):
        (tmp_path / "pictures" / name).touch()
    return find


def test_the_first_missing_picture_of_each_record(find):
    images = [
        "a.png",
        "x.png",
        ["a.png", "deep/y.png", "deep/z.png"],
        None,
        ["deep/er/c.png", "deep/b.png"],
        "no/a.png",
    ]
    assert find(*images) == {1: "x.png", 2: "deep/y.png", 5: "no/a.png"}


def test_a_folder_is_listed_once_for_many(find, tmp_path, monkeypatch):
    names = [f"deep/{number}.png" for number in range(LISTED_FROM)]
    for name in names[:-1]:
        (tmp_path / "pictures" / name).touch()
    asked = []
    monkeypatch.setattr(presence, "_is_missing", lambda path: asked.append(path.name) or True)
    assert find(*names) == {LISTED_FROM - 1: names[-1]}
    assert asked == [f"{LISTED_FROM - 1}.png"]  # by its name alone, which the list did not hold


def test_all_ways_to_write_a_name_that_opens_it(find, tmp_path):
    (tmp_path / "pictures" / "link.png").symlink_to("a.png")
    (tmp_path / "outside.png").touch()
    names = ["./a.png", "deep//b.png", "deep/../a.png", "link.png", "../outside.png", str(tmp_path / "outside.png")]
    assert find(*names) == {}  # that two of them lead out of the folder, opening them tells


def test_what_cannot_be_asked_for_is_left_to_its_turn(find):
    assert find("nul\x00.png", "x/nul\x00/a.png", "a.png/b.png") == {2: "a.png/b.png"}


def test_a_folder_that_is_not_there_has_none(find, tmp_path):
    names = [f"away/{number}.png" for number in range(LISTED_FROM)]
    assert find(*names) == dict(enumerate(names))
