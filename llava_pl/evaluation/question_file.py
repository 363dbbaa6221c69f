"""The original's question files: one JSON object a line, with `question_id`, `image`, `text` and perhaps `category`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json_lines
from llava_pl.types import IMAGE_SLOT, InputError, Question


def read_question_file(path: str | Path) -> list[tuple[Question, Mapping[str, Any]]]:
    """Return the questions of a file, each with its whole line.

    A prompt is the image slot, a line break and the text, as the original sends it. Identifiers may be numbers.

    Raises:
        InputError: The file cannot be read, or a line or field is wrong; names file, line and field.
    """
    questions = []
    for where, row in read_json_lines(path):
        question_id, text, image = row.get("question_id"), row.get("text"), row.get("image")
        if not isinstance(question_id, str | int) or isinstance(question_id, bool):
            raise InputError(f"{where}: field 'question_id': expected text or a number, found {question_id!r}")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: field 'text': expected a question, found {text!r}")
        if image is not None and not (isinstance(image, str) and image):
            raise InputError(f"{where}: field 'image': expected a file name, found {image!r}")
        prompt = f"{IMAGE_SLOT}\n{text}" if image is not None and IMAGE_SLOT not in text else text
        questions.append((Question(str(question_id), prompt, image=image), row))
    if not questions:
        raise InputError(f"{path}: expected questions, one JSON object a line, found none")
    return questions


def plain_text(question: Question) -> str:
    """Return a prompt without its image slot."""
    return question.prompt.replace(IMAGE_SLOT, "").strip()
