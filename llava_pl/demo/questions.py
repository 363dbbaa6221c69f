"""Questions about a scene, and the conversations made of them.

Second step of the demo: a Scene comes in, LLaVA conversations go out. The text follows ScienceQA as LLaVA asks it: the
question, a context, lettered options; and the answer says what it saw before it names the letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from llava_pl.demo.shapes import CELLS, COLOURS, COUNTS, Scene, Shape
from llava_pl.types import IMAGE_SLOT

Topic = Literal["colour", "count", "existence", "position"]
TOPICS: tuple[Topic, ...] = get_args(Topic)

_ABOUT_ONE_SHAPE: tuple[Topic, ...] = ("colour", "position")
_ABOUT_ALL: tuple[Topic, ...] = ("count", "existence")
_NUM_POSITION_CHOICES = 3
_MULTIPLE_CHOICE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class ShapeQuestion:
    """One question about a scene, with its options in random order.

    Args:
        topic: What it asks for.
        text: The question itself.
        choices: The options; the first is letter A.
        answer: Index of the right option.
    """

    topic: Topic
    text: str
    choices: tuple[str, ...]
    answer: int

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return chr(ord("A") + self.answer)

    @property
    def reason(self) -> str:
        """What is seen, as the answer to the open question.

        >>> ShapeQuestion("existence", "Is there a red square?", ("no", "yes"), 1).reason
        'yes'
        """
        return self.choices[self.answer]

    @property
    def solution(self) -> str:
        """What is seen and which option that is.

        >>> ShapeQuestion("existence", "Is there a red square?", ("no", "yes"), 1).solution
        'yes (B).'
        """
        return f"{self.reason} ({self.letter})."

    @property
    def lettered_prompt(self) -> str:
        r"""The question as LLaVA asks ScienceQA's (format QCM), without a hint.

        >>> ShapeQuestion("existence", "Is there a red square?", ("no", "yes"), 1).lettered_prompt
        'Is there a red square?\nContext: N/A\nOptions: (A) no (B) yes'
        """
        options = " ".join(f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(self.choices))
        return f"{self.text}\nContext: N/A\nOptions: {options}"

    @property
    def lettered_answer(self) -> str:
        """The answer as LLaVA trains ScienceQA's (format LEA): reason, then letter.

        The order matters: a decoder this small seldom learns to name a letter straight away, but does when the words
        that the letter stands for are the last thing it has written.

        >>> ShapeQuestion("existence", "Is there a red square?", ("no", "yes"), 1).lettered_answer
        'yes (B). The answer is B.'
        """
        return f"{self.solution} The answer is {self.letter}."


def ask(scene: Scene, topic: Topic, rng: np.random.Generator) -> ShapeQuestion:
    """Ask one question about a scene.

    What is asked for is drawn so that the question alone tells nothing: colours and cells are uniform, every number of
    shapes is as frequent, and half of the existence questions are about a shape that is not there.

    Args:
        scene: What the picture shows.
        topic: The kind of question.
        rng: Source of chance; advanced.
    """
    if topic == "count":
        return _shuffled(topic, "How many shapes are there?", str(len(scene.shapes)), map(str, COUNTS), rng)
    if topic == "existence":
        # About colours: there are more of them than shapes in a scene, so that one is always absent.
        present = {shape.colour for shape in scene.shapes}
        truth = bool(rng.integers(2))
        name = str(rng.choice([colour for colour in COLOURS if (colour in present) == truth]))
        return _shuffled(topic, f"Is there a {name} shape?", "yes" if truth else "no", ("yes", "no"), rng)
    shape = scene.singles[rng.integers(len(scene.singles))]
    if topic == "colour":
        return _shuffled(topic, f"What colour is the {shape.kind}?", shape.colour, COLOURS, rng)
    others = [cell for i, cell in enumerate(CELLS) if i != shape.cell]
    wrong = [others[i] for i in rng.permutation(len(others))[: _NUM_POSITION_CHOICES - 1]]
    return _shuffled(topic, f"Where is the {shape.kind}?", CELLS[shape.cell], [CELLS[shape.cell], *wrong], rng)


def describe(shapes: Sequence[Shape]) -> str:
    """A scene in words: every shape with its place, in the order given.

    >>> describe([Shape(0, "square", "red"), Shape(4, "circle", "blue")])
    'a red square at the top-left and a blue circle at the centre.'
    """
    *first, last = (f"a {shape.name} at the {CELLS[shape.cell]}" for shape in shapes)
    return f"{', '.join(first)} and {last}." if first else f"{last}."


def converse(scene: Scene, rng: np.random.Generator, topics: Sequence[Topic] = TOPICS) -> list[tuple[str, str]]:
    """Questions in random order, most of them lettered, with their answers: four, if all topics are asked for.

    Three of them are about one shape among others, which is learned last: it must be found by its kind first.

    Args:
        scene: What the picture shows.
        rng: Source of chance; advanced.
        topics: What may be asked for; fewer topics are learned sooner, and make fewer questions.
    """
    about_one, about_all = ([topic for topic in group if topic in topics] for group in (_ABOUT_ONE_SHAPE, _ABOUT_ALL))
    drawn = [*about_one, *(rng.choice(group) for group in (about_one, about_all) if group)]
    pairs = []
    for i in rng.permutation(len(drawn)):
        question = ask(scene, drawn[i], rng)
        if rng.random() < _MULTIPLE_CHOICE_SHARE:
            pairs.append((question.lettered_prompt, question.lettered_answer))
        else:
            pairs.append((question.text, f"{question.reason}."))
    return pairs


def converse_about_words(
    scene: Scene, rng: np.random.Generator, topics: Sequence[Topic] = TOPICS
) -> list[tuple[str, str]]:
    """A conversation about a scene that is described in words, in the place where the picture will stand.

    What the decoder learns before it meets a picture: to find an answer in what it has read. Arguments as for
    `converse`.
    """
    (question, answer), *rest = converse(scene, rng, topics)
    description = describe([scene.shapes[i] for i in rng.permutation(len(scene.shapes))])
    return [(f"{description}\n{question}", answer), *rest]


def to_turns(pairs: list[tuple[str, str]], *, has_picture: bool) -> list[dict[str, str]]:
    """The conversation of a LLaVA record, with the image slot in front of the first question if there is a picture."""
    turns = []
    for i, (question, answer) in enumerate(pairs):
        slot = f"{IMAGE_SLOT}\n" if has_picture and i == 0 else ""
        turns.append({"from": "human", "value": f"{slot}{question}"})
        turns.append({"from": "gpt", "value": answer})
    return turns


def _shuffled(topic: Topic, text: str, right: str, choices: Iterable[str], rng: np.random.Generator) -> ShapeQuestion:
    """A question with its options in random order."""
    options = list(choices)
    options = [options[i] for i in rng.permutation(len(options))]
    return ShapeQuestion(topic, text, tuple(options), options.index(right))
