"""A conversation in the making: pictures that were shown, questions that were asked, and what was answered."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from llava_pl.app.open_model import OpenModel
from llava_pl.data.picture_files import load_image
from llava_pl.evaluation.chat import Sampling, stream_answer
from llava_pl.types import IMAGE_SLOT, InputError, Turn
from llava_pl.visible import visible
from llava_pl.whole_file import whole_file


@dataclass
class Conversation:
    """A conversation with a model.

    Args:
        opened: The model.
        sampling: How it chooses its words.

    Attributes:
        turns: Questions and answers so far.
        pictures: What their image slots show, in order, each with where it is from.
        waiting: Pictures that the next question shows.
    """

    opened: OpenModel
    sampling: Sampling
    turns: list[Turn] = field(default_factory=list)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)
    waiting: list[tuple[str, Image.Image]] = field(default_factory=list)

    def show(self, path: str) -> tuple[int, int]:
        """Have the next question show a picture, and return its width and height.

        Raises:
            RecordError: It cannot be read.
        """
        picture = load_image(Path(path).expanduser(), respect_exif=self.opened.encoder.respect_exif)
        self.waiting.append((path, picture))
        return picture.size

    def ask(self, text: str) -> Generator[str]:
        """Yield the answer to a question as it is written.

        What was asked and answered becomes a part of the conversation when the answer has ended, or was stopped after
        some words; a question that could not be answered leaves it as it was.

        Args:
            text: The question. Pictures that wait are shown in front of it, unless it says where with ``<image>``.

        Raises:
            InputError: It is empty or no text, says of other pictures where they are shown than there are, or is too
                long.
        """
        if not text.strip():
            raise InputError("expected a question, found nothing; ask it together with its pictures")
        answer, opened = "", self.opened
        turns = [*self.turns, self._make_question(text)]
        pictures = [picture for _, picture in (*self.pictures, *self.waiting)]
        pieces = stream_answer(opened.model, opened.encoder, turns, pictures, self.sampling)
        try:
            for piece in pieces:
                answer += piece
                yield piece
        finally:
            pieces.close()
            if answer:
                self.take(text, answer)

    def take(self, text: str, answer: str) -> None:
        """Go on as if the model had given an answer to a question about the pictures that wait.

        Raises:
            InputError: As `ask`.
        """
        # What the model wrote shows no picture: there is none for it.
        said = Turn("gpt", answer.replace(IMAGE_SLOT, "< image >"))
        self.turns = [*self.turns, self._make_question(text), said]
        self.pictures, self.waiting = [*self.pictures, *self.waiting], []

    def _make_question(self, text: str) -> Turn:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = visible(text[error.start])
            raise InputError(
                f"question: expected text in UTF-8, found {found} as character {error.start + 1}"
            ) from error
        number = text.count(IMAGE_SLOT)
        if number and number != len(self.waiting):
            raise InputError(
                f"question: expected {IMAGE_SLOT} once for each picture, found it {number} times and "
                f"{len(self.waiting)} pictures; show them with the question, or write < image > for the word"
            )
        slots = "" if number else f"{IMAGE_SLOT}\n" * len(self.waiting)
        return Turn("human", f"{slots}{text}")

    def reset(self) -> None:
        """Forget all that was said and shown."""
        self.turns, self.pictures, self.waiting = [], [], []

    def save(self, path: Path) -> None:
        """Write the conversation as a record that models learn from, in a list of one.

        Raises:
            InputError: Nothing was said yet.
        """
        if not self.turns:
            raise InputError("/save: nothing was said yet")
        record: dict[str, object] = {"id": self.opened.name}
        names = [name for name, _ in self.pictures]
        if names:
            record["image"] = names[0] if len(names) == 1 else names
        record["conversations"] = [{"from": turn.role, "value": turn.text} for turn in self.turns]
        with whole_file(path) as part:
            part.write_text(json.dumps([record], indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
