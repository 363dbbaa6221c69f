"""Guards reading of what a teacher wrote: a turn that is lost, words around a text that get into the set."""

import pytest

from llava_pl.building.turns import Fault, parse_written


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Question: What?\nAnswer: A dog.", [("What?", "A dog.")]),
        ("\nQuestion:\nWhat?\n\nAnswer:\nA dog.\nIt runs.\n", [("What?", "A dog.\nIt runs.")]),
        (
            "**Question 1:** What?\n**Answer 1:** A.\n\n**Question 2:** Why?\n**Answer 2:** B.",
            [("What?", "A."), ("Why?", "B.")],
        ),
        ("**Question: What?**\n**Answer: A **big** dog.**", [("What?", "A **big** dog.")]),
        ("1. Question: What?\nAnswer: A.\n2) **Question**: Why?\nAnswer: B.", [("What?", "A."), ("Why?", "B.")]),
        ("question: a?\nanswer: The answer: yes.", [("a?", "The answer: yes.")]),
        ("Question: Can I help?\nAnswer: Sure, feel free to.", [("Can I help?", "Sure, feel free to.")]),
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
    ("text", "found"),
    [
        ("<think>So.</think>A dog.", "'<think>'"),
        ("A dog.<|im_end|>", "'<|'"),
        ("A dog.</s>", "'</s>'"),
        ("A\x00dog.", repr("\x00")),
        ("```\nA dog.\n```", "'```'"),
        ("A dog.\n\n---\n\nIt runs.", "'---'"),
        ("## The scene\nA dog.", "'## The scene'"),
        ("**The scene**\n\nA dog.", "'**The scene**'"),
        ("**Description:** A dog.", "'**Description:'"),
        ("Sure! A dog.", "'Sure!'"),
        ("Here\u2019s what I see:\n\nA dog.", '"Here\'s what I see:"'),
        ("A dog. Let me know if more is needed!", "'. Let me know if more is needed!'"),
        ("A dog.\n\nI hope this helps.", repr(".\n\nI hope this helps.")),
    ],
)
def test_words_around_a_text(text, found):
    assert parse_written("detailed", text, "Describe it.") == Fault("form", f"expected the text alone, found {found}")
