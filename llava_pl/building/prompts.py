"""What a teacher is asked, in three kinds: a conversation, a detailed description, a question that takes thought.

In: files of prompts and a `Description`. Out: the messages of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from llava_pl.building.descriptions import Description
from llava_pl.building.own_files import read_yaml
from llava_pl.endpoint import Message
from llava_pl.types import InputError

Kind = Literal["conversation", "detailed", "reasoning"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The kinds of the paper (section 3), in its order."""

FOLDER = Path(__file__).parent / "teacher"


@dataclass(frozen=True, slots=True)
class Prompt:
    """How one kind is asked for.

    Args:
        kind: Of what is written.
        system: What the teacher is told first.
        examples: What it would read of a picture, and what it should write then.
    """

    kind: Kind
    system: str
    examples: tuple[tuple[str, str], ...]

    def messages(self, description: Description) -> list[Message]:
        """Return the messages of a request; the last one is the description's text."""
        told = [Message(role="system", content=self.system)]
        for read, written in self.examples:
            told += [Message(role="user", content=read), Message(role="assistant", content=written)]
        return [*told, Message(role="user", content=description.text)]


def read_prompt(kind: Kind, folder: Path = FOLDER) -> Prompt:
    """Return the prompt of a kind, from ``KIND.yaml``: ``system``, and ``examples`` of captions, boxes and answer.

    Raises:
        InputError: The file cannot be read, or is of another form.
    """
    path = folder / f"{kind}.yaml"
    content = read_yaml(path, "--prompts")
    if not isinstance(content, dict) or not isinstance(content.get("system"), str):
        raise InputError(f"--prompts: {path}: expected 'system', a text, and 'examples', a list")
    examples = content.get("examples") or []
    if not isinstance(examples, list):
        raise InputError(f"--prompts: {path}: field 'examples': expected a list, found {type(examples).__name__}")
    return Prompt(kind, content["system"].strip(), tuple(_parse(each, path) for each in examples))


def _parse(example: Any, path: Path) -> tuple[str, str]:  # noqa: ANN401  YAML is any type until it is validated
    fields = example if isinstance(example, Mapping) else {}
    captions, boxes, answer = fields.get("captions"), fields.get("boxes") or [], fields.get("answer")
    if not (_is_texts(captions) and _is_texts(boxes) and isinstance(answer, str)):
        raise InputError(
            f"--prompts: {path}: examples: expected captions and boxes, lists of texts, and answer, a text; found "
            f"{example!r}"
        )
    return "\n\n".join("\n".join(part) for part in (captions, boxes) if part), answer.strip()


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
