"""Guards what a teacher says is there: an invented object or number that slips through, a sound sentence refused."""

import pytest

from llava_pl.building.claims import find_wrong_claims
from llava_pl.building.descriptions import Box, Description
from llava_pl.building.objects import Objects, read_names

DOGS = Description(
    "x.png",
    ("Two dogs play with a stick.", "A bench stands in a park, and three birds look on."),
    (
        *(Box("dog", (0, 0, 1, 1)),) * 2,
        Box("bird", (0, 0, 1, 1)),
        Box("skis", (0, 0, 1, 1)),
        Box("person", (0, 0, 1, 1), is_crowd=True),
    ),
)
OBJECTS = Objects({"dog", "person", "bird", "skis"}, read_names())


@pytest.mark.parametrize(
    ("question", "answer", "faults"),
    [
        ("And?", "Two dogs play near a bench.", []),
        ("And?", "There are three dogs.", ["3 dogs, boxes of 2"]),
        ("And?", "There is one dog on the left.", []),
        ("And?", "There are five men.", []),  # a crowd, which nobody counted
        ("And?", "Three birds look on.", []),  # as a caption says
        ("And?", "Four birds look on.", ["4 birds, boxes of 1"]),
        ("And?", "Two skis lie there.", []),  # which one box is around
        ("And?", "A cat sleeps near two cats.", ["cat", "cats"]),
        # Denials
        ("And?", "There is no cat.", []),
        ("And?", "There are no cats, horses, or cars.", []),
        ("And?", "Cats are absent, and a horse is not there.", []),
        ("And?", "There are no birds in the water, a cat is.", ["cat"]),
        ("And?", "There is not only a dog but a cat.", ["cat"]),
        ("And?", "No, it is a cat.", ["cat"]),
        ("And?", "There are no dogs in the picture.", ["no dogs, boxes of 2"]),
        ("And?", "There are no dogs on the bench.", []),
        ("Are there any dogs in the picture?", "No.", ["no dogs, boxes of 2"]),
        ("Is there a dog on the left?", "No.", []),
        # Questions
        ("What does the cat do?", "It sleeps.", ["cat"]),
        ("Is there a cat?", "No.", []),
        ("Is there a cat?", "Yes.", ["cat"]),
        ("How many cats are there?", "None.", []),
        ("How many cats are there?", "Two.", ["cats"]),
        ("Where are the five dogs?", "Here.", ["5 dogs, boxes of 2"]),
        # Counts
        ("How many dogs are there?", "Just one dog.", ["1 dogs, boxes of 2"]),
        ("How many dogs can you see?", "One.", ["1 dogs, boxes of 2"]),
        ("How many dogs are there?", "One on the left and one on the right.", []),
        ("How many dogs are there?", "At least one.", []),
        ("How many dogs are on the left?", "One.", []),
        ("How many brown dogs are there?", "One.", []),
        ("How many puppies are there?", "One.", []),
        ("How many dogs are on the left?", "A dozen.", ["12 dogs, boxes of 2"]),
        ("How many legs does the dog have?", "Four.", []),
        ("How many dog toys are there?", "Four.", []),
        # What may be, is compared, or is of anybody
        ("What is it?", "It could chase a cat.", ["cat"]),
        ("Why is it?", "It could chase a cat.", []),
        ("Why is it?", "Cats, I think, may come.", ["Cats"]),
        ("What could a cat do?", "Sleep.", []),
        ("What could the black cat do?", "Sleep.", ["cat"]),
        ("What do dogs like?", "Dogs run when cats do.", []),
        ("What is it?", "It jumps like a cat.", []),
        ("What is it?", "Many people come here.", []),
    ],
)
def test_claims(question, answer, faults):
    found = find_wrong_claims("conversation", [(question, answer)], DOGS, OBJECTS)
    assert [each.found for each in found] == faults


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        ("People come here.", []),
        ("A person rests.", []),
        ("Two people may rest.", []),
        ("Two people rest.", ["people"]),
        ("There are people.", ["people"]),
        ("A group of people rests.", ["people"]),
        ("A woman rests.", ["woman"]),
    ],
)
def test_anybody(answer, faults):
    pairs = [("What is there?", answer)]
    nobody = Description("x.png", ("A bench.",))
    assert [each.found for each in find_wrong_claims("detailed", pairs, nobody, OBJECTS)] == faults


def test_reasoning_may_speak_of_what_could_be_there():
    pairs = [("What is to be done?", "He should watch out for cars. A bus waits.")]
    assert [each.found for each in find_wrong_claims("reasoning", pairs, DOGS, OBJECTS)] == ["bus"]
