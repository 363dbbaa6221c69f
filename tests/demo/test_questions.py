"""Guards: a wrong answer taught as right, a question that gives its answer away, text that the parser cannot read."""

import re
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from llava_pl.data.scienceqa import Problem, answer_text, evaluation_question
from llava_pl.demo.dataset import _problem
from llava_pl.demo.questions import (
    TOPICS,
    ShapeQuestion,
    ask,
    converse,
    converse_about_words,
    describe,
    to_turns,
)
from llava_pl.demo.shapes import CELLS, COLOURS, Scene, Shape, sample_scene
from llava_pl.evaluation.parsing import parse_letter

SCENE = Scene((Shape(0, "square", "red"), Shape(4, "circle", "blue")))

NUM_CHOICES = {"colour": 4, "count": 2, "existence": 2, "position": 3}


def answer_by_hand(scene, text):
    """The answer to a question, found from its words alone."""
    if text == "How many shapes are there?":
        return str(len(scene.shapes))
    if match := re.fullmatch(r"Is there a (\w+)( shape)?\?", text):
        return "yes" if any((s.colour if match[2] else s.kind) == match[1] for s in scene.shapes) else "no"
    if match := re.fullmatch(r"What colour is the (\w+)\?", text):
        (shape,) = [s for s in scene.shapes if s.kind == match[1]]
        return shape.colour
    match = re.fullmatch(r"Where is the (\w+)\?", text)
    (shape,) = [s for s in scene.shapes if s.kind == match[1]]
    return CELLS[shape.cell]


def asked(topic, num_questions, seed=0):
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, held_out=False) for _ in range(num_questions)]
    return [(scene, ask(scene, topic, rng)) for scene in scenes]


@pytest.mark.parametrize("topic", TOPICS)
def test_answer_is_right_and_the_only_right_one(topic):
    for scene, question in asked(topic, 300):
        assert question.topic == topic
        assert question.choices[question.answer] == answer_by_hand(scene, question.text)
        assert len(set(question.choices)) == len(question.choices) == NUM_CHOICES[topic]


@pytest.mark.parametrize("topic", TOPICS)
def test_answers_and_letters_are_balanced(topic):
    questions = [question for _, question in asked(topic, 1200)]
    for values, num_values in (
        ([q.reason for q in questions], (NUM_CHOICES | {"position": 9})[topic]),
        ([q.letter for q in questions], len(questions[0].choices)),
    ):
        counts = Counter(values)
        assert len(counts) == num_values
        expected = len(questions) / num_values
        # A count deviates by less than sqrt(expected); five deviations.
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_words_of_a_question_do_not_tell_existence():
    # The best guess from the word alone must stay near one half. For each of the four words it exceeds it by about
    # 0.4 deviations of its count, in all by 4 * 0.4 * sqrt(1200/4)/1200 = 0.02 of the questions; thrice that fails.
    right: Counter[tuple[str, str]] = Counter()
    for _, question in asked("existence", 1200):
        right[question.text, question.reason] += 1
    best = sum(max(right[text, "yes"], right[text, "no"]) for text in {text for text, _ in right})
    assert best < 0.56 * 1200


def test_texts_to_the_letter():
    question = ShapeQuestion("colour", "What colour is the square?", ("blue", "red"), 1)
    assert question.lettered_prompt == "What colour is the square?\nContext: N/A\nOptions: (A) blue (B) red"
    assert question.lettered_answer == "red (B). The answer is B."
    assert describe([*SCENE.shapes, Shape(8, "circle", "green")]) == (
        "a red square at the top-left, a blue circle at the centre and a green circle at the bottom-right."
    )
    assert describe(SCENE.shapes[:1]) == "a red square at the top-left."
    assert to_turns([("q", "a"), ("r", "b")], has_picture=True) == [
        {"from": "human", "value": "<image>\nq"},
        {"from": "gpt", "value": "a"},
        {"from": "human", "value": "r"},
        {"from": "gpt", "value": "b"},
    ]
    assert to_turns([("q", "a")], has_picture=False)[0]["value"] == "q"


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("parser", ["llava", "strict"])
def test_lettered_text_is_what_the_evaluation_asks_and_reads(topic, parser):
    prompt_format = "QCM-LEA"
    for _, question in asked(topic, 20):
        problem = Problem(id="1", **(_problem(question, "test") | {"choices": question.choices}))
        assert evaluation_question(problem, prompt_format).prompt == f"<image>\n{question.lettered_prompt}"
        # Only the space that LLaVA's converter puts before an explanation without a lecture is missing.
        assert answer_text(problem, prompt_format).strip() == question.lettered_answer
        parsed = parse_letter(question.lettered_answer, question.choices, parser=parser)
        assert (parsed.letter, parsed.index) == (question.letter, question.answer)


# What colour? How many? Is there? Where?
MIXES = [["How", "What", "What", "Where"], ["How", "What", "Where", "Where"],
         ["Is", "What", "What", "Where"], ["Is", "What", "Where", "Where"]]  # fmt: skip


def test_conversations_ask_most_about_single_shapes_and_hold_only_right_answers():
    rng = np.random.default_rng(0)
    lettered = 0
    for _ in range(100):
        scene = sample_scene(rng, held_out=False)
        pairs = converse(scene, rng)
        assert sorted(prompt.split()[0] for prompt, _ in pairs) in MIXES
        for prompt, answer in pairs:
            right = answer_by_hand(scene, prompt.split("\n")[0])
            if "Options:" in prompt:
                lettered += 1
                letter = answer[-2]
                assert f"({letter}) {right}" in re.split(r" (?=\()", prompt.split("Options: ")[1])
                assert answer == f"{right} ({letter}). The answer is {letter}."
            else:
                assert answer == f"{right}."
    # Six in ten of 400, deviation 9.8; four deviations.
    assert abs(lettered - 240) < 40


def test_fewer_topics_leave_the_others_out():
    rng = np.random.default_rng(0)
    for topics, first_words in (
        (["count"], [["How"]]),
        (["position"], [["Where", "Where"]]),
        (["colour", "existence"], [["Is", "What", "What"]]),
    ):
        pairs = converse(SCENE, rng, topics)
        assert sorted(prompt.split()[0] for prompt, _ in pairs) in first_words


def test_words_stand_where_the_picture_will():
    orders = set()
    for seed in range(60):
        pairs = converse_about_words(SCENE, np.random.default_rng(seed))
        description, first = pairs[0][0].split("\n", maxsplit=1)
        orders.add(description)
        prompts = [first, *(prompt for prompt, _ in pairs[1:])]
        for prompt, (_, answer) in zip(prompts, pairs, strict=True):
            assert answer.split(" (")[0].removesuffix(".") == answer_by_hand(SCENE, prompt.split("\n")[0])
    assert orders == {describe(shapes) for shapes in permutations(SCENE.shapes)}


def test_colours_are_told_apart_by_name():
    assert len(COLOURS) == len(set(COLOURS.values())) == 4
