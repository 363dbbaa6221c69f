"""JSON to records: the first step of the data flow.

In: a file in LLaVA's JSON format, a list of ``{"id", "image", "conversations"}``. Out: validated `Record` objects,
which the rest of the package trusts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_pl.data.json_files import read_json
from llava_pl.types import IMAGE_SLOT, BadRecord, InputError, Record, RecordError, Turn


def read_records(path: str | Path) -> list[Record]:
    """Return the records of a LLaVA JSON file in order.

    Raises:
        InputError: The file is missing, is no JSON list, or a record is malformed; the message names file, index,
            id and field.
    """
    records: list[Record] = []
    for record in parse_records(path):
        if isinstance(record, BadRecord):
            raise RecordError(record.message, record.reason)
        records.append(record)
    return records


def parse_records(path: str | Path) -> list[Record | BadRecord]:
    """Return each record of a LLaVA JSON file, or what is wrong with it, in order.

    Raises:
        InputError: The file is missing or is no JSON list.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a JSON list of records, found {_describe(entries)}")
    return [_parse_or_explain(entry, index, f"{path}: record {index}") for index, entry in enumerate(entries)]


def _parse_or_explain(entry: Any, index: int, where: str) -> Record | BadRecord:  # noqa: ANN401
    try:
        return parse_record(entry, where=where)
    except RecordError as error:
        fields = entry if isinstance(entry, Mapping) else {}
        name, image = fields.get("id"), fields.get("image")
        images = tuple(name for name in (image if isinstance(image, list) else [image]) if isinstance(name, str))
        return BadRecord(index, str(name) if isinstance(name, str | int) else "", error.reason, str(error), images)


def parse_record(entry: Any, *, where: str) -> Record:  # noqa: ANN401
    r"""Return the record that a JSON entry describes.

    Image slots must match the images: a record with pictures has one slot for each, all in human turns. A record
    without pictures may hold ``<image>`` as literal text.

    Args:
        entry: A parsed JSON value; ``image`` may be a string, a list of strings, null or absent.
        where: File and index, put in front of every message.

    Raises:
        RecordError: A field is missing, of a wrong type, or slots and images do not match.

    >>> turns = [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A dog."}]
    >>> record = parse_record({"id": 7, "image": "a.png", "conversations": turns}, where="x.json: record 0")
    >>> record.id, record.images, record.turns[1]
    ('7', ('a.png',), Turn(role='gpt', text='A dog.'))
    """
    if not isinstance(entry, Mapping):
        raise RecordError(f"{where}: expected an object, found {_describe(entry)}")
    if not isinstance(entry.get("id"), str | int) or isinstance(entry["id"], bool):
        raise RecordError(f"{where}: field 'id': expected a string or an integer, found {_describe(entry.get('id'))}")
    where = f"{where} (id {entry['id']!r})"
    images = _parse_images(entry.get("image"), where)
    turns = parse_turns(entry.get("conversations"), where=where)
    _check_slots(turns, images, where)
    return Record(id=str(entry["id"]), turns=turns, images=images)


def parse_turns(conversations: Any, *, where: str = "conversation") -> tuple[Turn, ...]:  # noqa: ANN401
    """Return the turns of a ``conversations`` field, or of a sequence of turns.

    Raises:
        RecordError: Not a non-empty list of ``{"from": "human" | "gpt", "value": text}``.
    """
    if not isinstance(conversations, Sequence) or isinstance(conversations, str) or not conversations:
        raise RecordError(
            f"{where}: field 'conversations': expected a non-empty list, found {_describe(conversations)}"
        )
    return tuple(_parse_turn(turn, f"{where}: turn {index}") for index, turn in enumerate(conversations))


def _parse_turn(turn: Any, where: str) -> Turn:  # noqa: ANN401
    if isinstance(turn, Turn):
        return turn
    if not isinstance(turn, Mapping):
        raise RecordError(f"{where}: expected an object with 'from' and 'value', found {_describe(turn)}")
    role, text = turn.get("from"), turn.get("value")
    if role not in ("human", "gpt"):
        raise RecordError(f"{where}: field 'from': expected 'human' or 'gpt', found {role!r}", "roles")
    if not isinstance(text, str):
        raise RecordError(f"{where}: field 'value': expected a string, found {_describe(text)}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RecordError(
            f"{where}: field 'value': holds a lone surrogate, which no tokenizer can read; repair the text"
        )
    return Turn(role=role, text=text)


def _parse_images(image: Any, where: str) -> tuple[str, ...]:  # noqa: ANN401
    images = () if image is None else (image,) if isinstance(image, str) else image
    if not isinstance(images, list | tuple) or not all(isinstance(name, str) and name for name in images):
        raise RecordError(f"{where}: field 'image': expected a file name or a list of them, found {_describe(image)}")
    return tuple(images)


def _check_slots(turns: tuple[Turn, ...], images: tuple[str, ...], where: str) -> None:
    if not images:
        return
    slots = sum(turn.text.count(IMAGE_SLOT) for turn in turns)
    if slots != len(images):
        found = f"{slots} '{IMAGE_SLOT}' marks for {len(images)} images"
        raise RecordError(f"{where}: {found}; expected one mark for each", "image_slots")
    for index, turn in enumerate(turns):
        if turn.role == "gpt" and IMAGE_SLOT in turn.text:
            found = f"turn {index}: an answer holds '{IMAGE_SLOT}'"
            raise RecordError(f"{where}: {found}; only questions may show pictures", "image_slots")


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple | dict) and not value:
        return f"an empty {type(value).__name__}"
    text = repr(value)
    return f"{type(value).__name__} {text[:40]}{'...' if len(text) > 40 else ''}"
