"""Guards checks of what a teacher wrote: a fault that slips through, a sound text refused."""

import re
from pathlib import Path

import pytest
import yaml

from llava_pl.building.descriptions import Box, Description
from llava_pl.building.faults import MAX_WORDS, MIN_WORDS, Fault, find_faults
from llava_pl.building.objects import Names, Objects, read_names
from llava_pl.building.prompts import FOLDER, KINDS
from llava_pl.building.turns import parse_written

TEXTS = yaml.safe_load((Path(__file__).parent / "teacher_texts.yaml").read_text())
OBJECTS = Objects({category for each in TEXTS for category in each["boxes"]}, read_names())
NOTHING = Description("x.png", ("A field.",))
PROSE = (
    "The view is wide and calm, with soft light over everything that lies in front of us. Nothing moves, nobody is "
    "loud, and yet it never gets dull: each look finds something new."
)


def lay_out(row):
    if "whole" in row:
        return row["whole"]
    if row["kind"] == "detailed":
        return f"{PROSE} {row['text']}"
    before = "Question: What is this?\nAnswer: A scene.\n" if row["kind"] == "conversation" else ""
    end = f" {PROSE}" if row["kind"] == "reasoning" else ""
    return f"{before}Question: {row['ask']}\nAnswer: {row['text']}{end}"


@pytest.mark.parametrize(
    ("each", "row"),
    [
        pytest.param(each, row, id=(row.get("text") or row["whole"])[:40].encode("ascii", "replace").decode())
        for each in TEXTS
        for row in each["texts"]
    ],
)
def test_what_teachers_write(each, row):
    boxes = (Box(category, (0, 0, 1, 1)) for category, number in each["boxes"].items() for _ in range(number))
    pairs = parse_written(row["kind"], lay_out(row), "Describe it.")
    description = Description("x.png", tuple(each["captions"]), tuple(boxes))
    faults = [pairs] if isinstance(pairs, Fault) else list(find_faults(row["kind"], pairs, description, OBJECTS))
    assert sorted({fault.reason for fault in faults}) == row["reasons"], faults


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        ("The caption says so.", [("source", "caption")]),
        ("Its bounding boxes are large.", [("source", "bounding boxes")]),
        ("It is at [0.25, 0.3].", [("source", "[0.25,")]),
        ("Its edge is at 0.55 then.", [("source", "0.55")]),
        ("It costs $0.55, or 2.50.", []),
        ("According to the provided information, it runs.", [("source", "provided information")]),
        ("It coordinates its legs, to coordinate them.", []),
        ("The breed isn\u2019t specified.", [("source", "n't specified")]),
        ("Shade is provided by trees.", []),
        ("As an AI, I guess.", [("refusal", "As an AI")]),
        ("I\u2019m sorry, I see none.", [("refusal", "I'm sorry")]),
        ('She says "I\'m sorry" to it.', []),
        ("An <Image>.", [("slot", "<Image>")]),
        (" ".join(map(str, range(400))), []),
        (" ".join(map(str, range(401))), [("length", "expected 1 to 400 words, found 401")]),
        ("It runs. " * 3, []),
        ("It runs. " * 9, [("repeated", "8 times 'it runs it'")]),
    ],
)
def test_faults_of_an_answer(answer, faults):
    pairs = [("What is there?", "Something."), ("And?", answer)]
    found = find_faults("conversation", pairs, NOTHING, Objects((), Names()))
    assert [(each.reason, each.found) for each in found] == faults


@pytest.mark.parametrize(
    ("kind", "pairs", "reason"),
    [
        ("conversation", [("a?", "b")], "questions"),
        ("conversation", [(f"{n}?", f"{n}") for n in range(13)], "questions"),
        ("reasoning", [("a?", PROSE), ("b?", PROSE)], "questions"),
        ("conversation", [("a?", "b"), ("A ?", "c")], "repeated"),
        ("detailed", [("a?", "short")], "length"),
        ("reasoning", [("a?", " ".join(map(str, range(501))))], "length"),
    ],
)
def test_faults_of_the_whole(kind, pairs, reason):
    assert [each.reason for each in find_faults(kind, pairs, NOTHING, OBJECTS)] == [reason]


@pytest.mark.parametrize("kind", KINDS)
def test_teachers_are_told_lengths_that_pass(kind):
    told = re.findall(r"(\d+) to\s+(\d+)\s+words", yaml.safe_load((FOLDER / f"{kind}.yaml").read_text())["system"])
    assert told
    assert all(MIN_WORDS[kind] <= int(low) < int(high) <= MAX_WORDS[kind] for low, high in told)


def test_another_script():
    text = "It is \u72d7 and green."
    faults = find_faults("conversation", [("Who?", text), ("What?", "It runs.")], NOTHING, OBJECTS)
    assert [(each.reason, each.found) for each in faults] == []
    faults = find_faults("conversation", [("\u72d7\u72d7?", text), ("What?", "It runs.")], NOTHING, OBJECTS)
    assert [(each.reason, each.found) for each in faults] == [
        ("language", "expected the Latin alphabet, found '\u72d7\u72d7\u72d7'")
    ]
