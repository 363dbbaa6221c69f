"""Guards the folder of instructions: a rejected text among the records, a mixture that is not even."""

import json

import pytest
import yaml
from PIL import Image

from llava_pl.building.descriptions import Box, Description
from llava_pl.building.instruction_files import write_instructions
from llava_pl.building.instruction_page import draw_boxes
from llava_pl.building.instructions import Request, Written
from llava_pl.building.prompts import Prompt
from llava_pl.building.written import Fault
from llava_pl.types import InputError


def make(kind, number, *reasons, has_record=True):
    description = Description(f"{number}.png", ("A <dog>.",), (Box("dog", (0.25, 0.25, 0.75, 0.75)),))
    record = {"id": f"{number}_{kind}", "image": description.image, "conversations": []} if has_record else None
    faults = [Fault(reason, "a <cat>") for reason in reasons]
    return Written(Request(f"hash {number}", Prompt(kind, "", ()), description), f"text {number}", record, faults)


@pytest.fixture
def written():
    return [
        make("conversation", 0),
        make("detailed", 1, "object", "length"),
        make("conversation", 2),
        make("detailed", 3, "object"),
        make("conversation", 4, "form", has_record=False),
        make("reasoning", 5),
    ]


def read(path):
    return json.loads(path.read_text())


def test_records_by_kind_and_reasons(written, tmp_path):
    counts = write_instructions(tmp_path, written, (), None)
    assert counts == {
        "replies": 6, "records": 3, "conversation": 2, "detailed": 0, "reasoning": 1,
        "rejected: form": 1, "rejected: length": 1, "rejected: object": 2,
    }  # fmt: skip
    assert read(tmp_path / "report.json") == counts
    assert [record["id"] for record in read(tmp_path / "conversation.json")] == ["0_conversation", "2_conversation"]
    assert read(tmp_path / "detailed.json") == []
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert rejected[0] == {
        "image": "1.png", "kind": "detailed", "reasons": [["object", "a <cat>"], ["length", "a <cat>"]],
        "text": "text 1", "request": "hash 1",
    }  # fmt: skip
    assert [each["request"] for each in rejected] == ["hash 1", "hash 3", "hash 4"]


def test_accepted_reasons(written, tmp_path):
    write_instructions(tmp_path, written, ("object", "form"), None)
    assert [record["id"] for record in read(tmp_path / "detailed.json")] == ["3_detailed"]
    assert len(read(tmp_path / "conversation.json")) == 2


def test_kinds_are_drawn_equally_often(written, tmp_path):
    write_instructions(tmp_path, written, ("object",), None)
    sources = yaml.safe_load((tmp_path / "mixture.yaml").read_text())["data"]["records"]
    assert sources == [
        {"path": f"{tmp_path}/conversation.json", "repeats": 1.0},
        {"path": f"{tmp_path}/detailed.json", "repeats": 2.0},
        {"path": f"{tmp_path}/reasoning.json", "repeats": 2.0},
    ]


def test_the_page_shows_pictures_with_boxes_and_reasons(written, tmp_path):
    def load(name):
        if name == "2.png":
            raise InputError("none")
        return Image.new("RGB", (40, 40))

    write_instructions(tmp_path, written, (), load)
    page = (tmp_path / "report.html").read_text()
    # The second text that was refused has two reasons, and stands below both.
    assert page.count("<img ") == 6
    assert page.count("the picture cannot be shown") == 1
    assert page.count("object: a &lt;cat&gt;") == 3
    assert "<h2>object: not taken: 2</h2>" in page
    assert "<cat>" not in page


def test_boxes():
    drawn = draw_boxes(Image.new("L", (400, 200)), [Box("dog", (0.25, 0.25, 0.75, 0.75))])
    assert (drawn.mode, drawn.size) == ("RGB", (320, 160))
    assert drawn.getpixel((80, 100)) == drawn.getpixel((240, 100)) == drawn.getpixel((160, 120)) == (214, 39, 40)
    assert drawn.getpixel((160, 100)) == drawn.getpixel((40, 100)) == (0, 0, 0)
