"""Guards what a teacher is told: examples that break the rules they stand for, a file that is half taken."""

import pytest
import yaml

from llava_pl.building.descriptions import Box, Description
from llava_pl.building.faults import find_faults
from llava_pl.building.objects import Objects, read_names
from llava_pl.building.prompts import FOLDER, KINDS, read_prompt
from llava_pl.building.turns import parse_written
from llava_pl.types import InputError


def as_description(example):
    boxes = []
    for line in example["boxes"]:
        category, _, corners = line.partition(": ")
        boxes.append(Box(category, tuple(map(float, corners.strip("[]").split(",")))))
    return Description("x.png", tuple(example["captions"]), tuple(boxes))


@pytest.mark.parametrize("kind", KINDS)
def test_our_examples_would_be_taken(kind):
    prompt = read_prompt(kind)
    examples = yaml.safe_load((FOLDER / f"{kind}.yaml").read_text())["examples"]
    assert len(prompt.examples) == len(examples) == 2
    for (read, written), example in zip(prompt.examples, examples, strict=True):
        description = as_description(example)
        assert description.text == read
        pairs = parse_written(kind, written, "Describe it.")
        objects = Objects({box.category for box in description.boxes}, read_names())
        assert list(find_faults(kind, pairs, description, objects)) == []


def test_messages():
    prompt = read_prompt("reasoning")
    messages = prompt.messages(Description("x.png", ("A dog.",), (Box("dog", (0, 0, 1, 1)),)))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[-1]["content"] == "A dog.\n\ndog: [0.000, 0.000, 1.000, 1.000]"
    assert "x.png" not in str(messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("examples: []", "expected 'system', a text, and 'examples', a list"),
        ("system: x\nexamples: {a: b}", "field 'examples': expected a list, found dict"),
        ("system: x\nexamples: [{captions: [a], answer: 3}]", "examples: expected captions and boxes, lists of texts"),
        ("system: x\nexamples: [7]", "examples: expected captions and boxes, lists of texts"),
        ("a: [", "invalid YAML"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_prompt(content, message, tmp_path):
    if content is not None:
        (tmp_path / "detailed.yaml").write_text(content)
    with pytest.raises(InputError) as caught:
        read_prompt("detailed", tmp_path)
    assert str(caught.value).startswith(f"--prompts: {tmp_path / 'detailed.yaml'}: {message}")
