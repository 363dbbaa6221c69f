"""Guards checks of what a teacher wrote: a turn that is lost, a fault that slips through, a sound text refused."""

import pytest

from llava_pl.building.descriptions import Box, Description
from llava_pl.building.objects import Objects, read_names
from llava_pl.building.written import Fault, find_faults, parse_written

DOGS = Description(
    "x.png",
    ("Two dogs play with a stick.", "A bench stands in a park."),
    (Box("dog", (0, 0, 1, 1)), Box("dog", (0, 0, 1, 1)), Box("person", (0, 0, 1, 1), is_crowd=True)),
)
OBJECTS = Objects({"dog", "person", "cat"}, read_names())
LONG = "word " * 40


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Question: What?\nAnswer: A dog.", [("What?", "A dog.")]),
        ("\nQuestion:\nWhat?\n\nAnswer:\nA dog.\nIt runs.\n", [("What?", "A dog.\nIt runs.")]),
        (
            "**Question 1:** What?\n**Answer 1:** A.\n\n**Question 2:** Why?\n**Answer 2:** B.",
            [("What?", "A."), ("Why?", "B.")],
        ),
        ("question: a?\nanswer: The answer: yes.", [("a?", "The answer: yes.")]),
    ],
)
def test_turns(text, pairs):
    assert parse_written("conversation", text, "unused") == pairs


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        ("conversation", " \n", Fault("empty", "nothing was written")),
        ("conversation", "Sure!\nQuestion: a?\nAnswer: b", Fault("form", "expected 'Question:' first, found 'Sure!'")),
        ("conversation", "Answer: b", Fault("form", "expected questions and answers in turns, found answer")),
        (
            "conversation",
            "Question: a?\nQuestion: b?\nAnswer: c",
            Fault("form", "expected questions and answers in turns, found question, question, answer"),
        ),
        ("reasoning", "Question: a?", Fault("form", "expected questions and answers in turns, found question")),
        (
            "reasoning",
            "Question: a?\nAnswer:",
            Fault("form", "expected words behind each mark, found none behind 'answer'"),
        ),
        ("detailed", "Question: a?\nAnswer: b", Fault("form", "expected a description alone, found 'Question:'")),
    ],
)
def test_texts_without_turns(kind, text, fault):
    assert parse_written(kind, text, "Describe it.") == fault


def test_a_description_answers_the_question_that_was_drawn():
    assert parse_written("detailed", " All of it. ", "Describe it.") == [("Describe it.", "All of it.")]


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        ("Two dogs play on a bench.", []),
        ("There are three dogs.", [("number", "3 dogs, boxes of 2")]),
        ("There is one dog.", [("number", "1 dog, boxes of 2")]),
        ("One dog is brown, 2 dogs are there.", []),
        ("There are five people.", []),  # a crowd, which nobody counted
        ("A cat sleeps near two cats.", [("object", "cat"), ("object", "cats")]),
        ("There is no cat.", []),
        ("The caption says so.", [("source", "caption")]),
        ("Its bounding boxes are large.", [("source", "bounding boxes")]),
        ("It is at [0.25, 0.3].", [("source", "[0.25")]),
        ("According to the provided information, it runs.", [("source", "provided information")]),
        ("As an AI, I guess.", [("refusal", "As an AI")]),
        ("I'm sorry, I see none.", [("refusal", "I'm sorry")]),
        ("An <image>.", [("slot", "<image>")]),
        ("word " * 151, [("length", "expected 1 to 150 words, found 151")]),
    ],
)
def test_faults_of_an_answer(answer, faults):
    pairs = [("What is there?", "Something."), ("And?", answer)]
    assert [(each.reason, each.found) for each in find_faults("conversation", pairs, DOGS, OBJECTS)] == faults


def test_a_number_that_was_asked_for_is_of_all():
    pairs = [("What is there?", "Animals."), ("How many dogs are there?", "Just one dog.")]
    assert list(find_faults("conversation", pairs, DOGS, OBJECTS)) == [Fault("number", "1 dog, boxes of 2")]


@pytest.mark.parametrize(
    ("kind", "pairs", "reason"),
    [
        ("conversation", [("a?", "b")], "questions"),
        ("conversation", [(f"{n}?", f"{n}") for n in range(13)], "questions"),
        ("reasoning", [("a?", LONG), ("b?", LONG)], "questions"),
        ("conversation", [("a?", "b"), ("A?", "c")], "repeated"),
        ("detailed", [("a?", "short")], "length"),
        ("reasoning", [("a?", "word " * 501)], "length"),
    ],
)
def test_faults_of_the_whole(kind, pairs, reason):
    assert [each.reason for each in find_faults(kind, pairs, DOGS, OBJECTS)] == [reason]
