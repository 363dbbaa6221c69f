"""What the chat page asks of a model: answers, the words of the last one, and pictures with where it looked for a word.

In: a conversation as Gradio holds it, which may come from anybody. Out: text and pictures; no Gradio in here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from llava_pl.app.open_model import OpenModel
from llava_pl.app.talk.chat import Conversation
from llava_pl.evaluation.chat import Sampling
from llava_pl.evaluation.looking import LookMethod, Looks
from llava_pl.evaluation.overlay import draw_overlay
from llava_pl.models.projector import keeps_grid
from llava_pl.types import InputError

NO_ANSWER = "no answer"
"""Marks what stands in the place of an answer that could not be given, and is no part of the conversation."""

Message = Mapping[str, Any]
"""One of Gradio's: ``role``, and ``content`` as a list of parts, each a text or a file."""

Asked = Mapping[str, Any]
"""What Gradio makes of a question: its ``text``, and ``files``, each a path or a mapping that has one."""


class Desk:
    """Answers what the page asks of the model, one question at a time.

    Args:
        opened: The model.
        seed: Of answers that are drawn.
    """

    def __init__(self, opened: OpenModel, seed: int | None) -> None:
        self._opened, self._seed = opened, seed
        self._lock = Lock()  # a stopped answer may take one more step while the next begins
        self.methods = ["attention", "gradient"] if keeps_grid(opened.model.projector) else ["gradient"]

    def answer(
        self, asked: Asked, history: Sequence[Message], temperature: float, top_p: float, length: float
    ) -> Generator[str]:
        """Yield the answer so far, longer each time.

        Args:
            asked: The question.
            history: What was said before.
            temperature: As for `Sampling`, and so the rest.
            top_p: Of the likeliest words.
            length: The most new tokens.

        Raises:
            InputError: A picture cannot be read, or the conversation is too long.
        """
        sampling = Sampling(int(length), temperature, top_p, self._seed)
        with self._lock:
            conversation = read_history(history, self._opened, sampling)
            for path in _paths(asked):
                _show(conversation, path)
            text = ""
            for piece in conversation.ask(asked["text"]):
                text += piece
                yield text

    def list_words(self, history: Sequence[Message]) -> list[tuple[str, int]]:
        """Return the words of the last answer, each with its number; none without a picture."""
        conversation = read_history(history, self._opened, Sampling())
        if not conversation.turns or not conversation.pictures:
            return []
        return [(word, number) for number, word in enumerate(self._look(conversation).words)]

    def draw(self, history: Sequence[Message], word: int, method: LookMethod) -> list[tuple[Image.Image, str]]:
        """Return the pictures of a conversation, each with where the model looked for a word, and a line about it."""
        conversation = read_history(history, self._opened, Sampling())
        with self._lock:
            looks = self._look(conversation)
            maps = looks.maps(word, method)
        highest = max(float(each.max()) for each in maps)
        drawn = []
        for (_, picture), values in zip(conversation.pictures, maps, strict=True):
            seen = self._opened.encoder.find_seen(picture.size)
            share = f": {100 * float(values.sum()):.1f} % of its attention is here" if method == "attention" else ""
            drawn.append((draw_overlay(picture, values, seen, top=highest), f"{looks.words[word]}{share}"))
        return drawn

    def _look(self, conversation: Conversation) -> Looks:
        pictures = [picture for _, picture in conversation.pictures]
        return Looks(self._opened.model, self._opened.encoder, conversation.turns, pictures)


def read_history(history: Sequence[Message], opened: OpenModel, sampling: Sampling) -> Conversation:
    """Return the conversation that a page has shown; a question without an answer, as after an error, is no part of it.

    Raises:
        InputError: A picture of it is not there any more.
    """
    conversation, question, paths = Conversation(opened, sampling), "", []
    for message in history:
        text = "".join(part["text"] for part in message["content"] if part["type"] == "text")
        is_answer = (message.get("metadata") or {}).get("id") != NO_ANSWER
        if message["role"] == "user":
            question = text
            paths = [part["file"]["path"] for part in message["content"] if part["type"] == "file"]
        elif is_answer and text.strip() and question:
            for path in paths:
                _show(conversation, path)
            conversation.take(question, text)
            question = ""
    return conversation


def _paths(asked: Asked) -> list[str]:
    return [file if isinstance(file, str) else file["path"] for file in asked["files"]]


def as_messages(asked: Asked, answer: str) -> list[Message]:
    """Return a question and its answer as the page shows them."""
    files = [{"type": "file", "file": {"path": path}} for path in _paths(asked)]
    question = {"role": "user", "content": [*files, {"type": "text", "text": asked["text"]}]}
    return [question, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def _show(conversation: Conversation, path: str) -> None:
    """Show a picture; what goes wrong is said without the server's folders."""
    try:
        conversation.show(path)
    except InputError as error:
        raise InputError(str(error).replace(path, Path(path).name)) from error
