"""JSON to records: the first step of the data flow.

In: a file in LLaVA's JSON format, a list of ``{"id", "image", "conversations"}``. Out: validated `Record` objects,
which the rest of the package trusts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from llava_pl.data.json_files import read_json
from llava_pl.types import IMAGE_SLOT, BadRecord, InputError, Record, RecordError, Role, Turn

_ROLES = frozenset(get_args(Role))
MOST_CHARACTERS = 1_000_000
"""The longest conversation, some hundred times what a decoder reads: a tokenizer takes 400 bytes for each character."""

_OBJECT = (dict, Mapping)  # the common type first: testing for an abstract class is slow


class RecordFields(NamedTuple):
    """The validated content of an entry, still in columns: what `Record` is made of, and what a store writes.

    Args:
        id: Name of the record.
        images: File names relative to the image folder.
        roles: Who speaks, turn by turn.
        texts: What is said, turn by turn.
        num_characters: Of all turns, with one between each two.
    """

    id: str
    images: tuple[str, ...]
    roles: Sequence[Role]
    texts: Sequence[str]
    num_characters: int


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
        raise InputError(f"{path}: expected a JSON list of records, found {describe(entries)}")
    return [_parse_or_explain(entry, index, f"{path}: record {index}") for index, entry in enumerate(entries)]


def _parse_or_explain(entry: Any, index: int, where: str) -> Record | BadRecord:  # noqa: ANN401
    try:
        return parse_record(entry, where=where)
    except RecordError as error:
        return describe_bad(entry, index, error)


def describe_bad(entry: Any, index: int, error: RecordError) -> BadRecord:  # noqa: ANN401
    """Return what an entry says about itself, as far as it can be read, and why it is no record.

    Args:
        entry: The JSON value that was refused.
        index: Its place in the data.
        error: What `parse_record` or `parse_fields` raised.
    """
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
    fields = parse_fields(entry, where=where)
    return Record(id=fields.id, turns=tuple(map(Turn, fields.roles, fields.texts)), images=fields.images)


def parse_fields(entry: Any, *, where: str) -> RecordFields:  # noqa: ANN401
    """Return what `parse_record` returns, as columns: a million records are checked without making their objects.

    Raises:
        RecordError: As for `parse_record`.
    """
    if not isinstance(entry, _OBJECT):
        raise RecordError(f"{where}: expected an object, found {describe(entry)}")
    name = entry.get("id")
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise RecordError(f"{where}: field 'id': expected a string or an integer, found {describe(name)}")
    try:
        if not _is_encodable(str(name)):
            raise RecordError("field 'id': holds a lone surrogate; repair the text")
        images = _parse_images(entry.get("image"))
        roles, texts, joined = _parse_conversation(entry.get("conversations"))
        if images:
            _check_slots(roles, texts, joined.count(IMAGE_SLOT), len(images))
    except RecordError as error:
        raise RecordError(f"{where} (id {name!r}): {error}", error.reason) from None
    return RecordFields(str(name), images, roles, texts, len(joined))


def parse_turns(conversations: Any, *, where: str = "conversation") -> tuple[Turn, ...]:  # noqa: ANN401
    """Return the turns of a ``conversations`` field, or of a sequence of turns.

    Raises:
        RecordError: Not a non-empty list of ``{"from": "human" | "gpt", "value": text}``.
    """
    try:
        roles, texts, _ = _parse_conversation(conversations)
        return tuple(map(Turn, roles, texts))
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None


def _parse_conversation(conversations: Any) -> tuple[list[Role], list[str], str]:  # noqa: ANN401
    """Return roles, texts, and all texts joined: what is looked for in any of them is looked for once."""
    if not isinstance(conversations, (list, Sequence)) or isinstance(conversations, str) or not conversations:
        found = describe(conversations)
        raise RecordError(f"field 'conversations': expected a non-empty list, found {found}")
    # All turns at once, because a data set has millions of them; one by one only to say which of them is wrong.
    try:
        roles = [turn["from"] for turn in conversations]
        texts = [turn["value"] for turn in conversations]
        joined = "\n".join(texts)
        is_plain = _ROLES.issuperset(roles) and _is_encodable(joined)
    except (LookupError, TypeError):
        is_plain = False
    if not is_plain:
        turns = [_parse_turn(turn, f"turn {index}") for index, turn in enumerate(conversations)]
        roles, texts = [role for role, _ in turns], [text for _, text in turns]
        joined = "\n".join(texts)
    if len(joined) > MOST_CHARACTERS:
        raise RecordError(
            f"field 'conversations': expected at most {MOST_CHARACTERS:,} characters, found {len(joined):,}; "
            "shorten it, or drop the record",
            "too_long",
        )
    return roles, texts, joined


def _parse_turn(turn: Any, where: str) -> tuple[Role, str]:  # noqa: ANN401
    if isinstance(turn, Turn):
        return turn.role, turn.text
    if not isinstance(turn, _OBJECT):
        raise RecordError(f"{where}: expected an object with 'from' and 'value', found {describe(turn)}")
    role, text = turn.get("from"), turn.get("value")
    if role not in ("human", "gpt"):
        raise RecordError(f"{where}: field 'from': expected 'human' or 'gpt', found {role!r}", "roles")
    if not isinstance(text, str):
        raise RecordError(f"{where}: field 'value': expected a string, found {describe(text)}")
    if not _is_encodable(text):
        raise RecordError(
            f"{where}: field 'value': holds a lone surrogate, which no tokenizer can read; repair the text"
        )
    return role, text


def _is_encodable(text: str) -> bool:
    """Return whether UTF-8 can hold the text; lone surrogates are the only characters that it cannot."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _parse_images(image: Any) -> tuple[str, ...]:  # noqa: ANN401
    images = () if image is None else (image,) if isinstance(image, str) else image
    if not isinstance(images, (list, tuple)) or not all(isinstance(name, str) and name for name in images):
        found = describe(image)
        raise RecordError(f"field 'image': expected a file name or a list of them, found {found}")
    if not _is_encodable("".join(images)):
        raise RecordError("field 'image': holds a lone surrogate; rename the file")
    return tuple(images)


def _check_slots(roles: Sequence[Role], texts: Sequence[str], num_slots: int, num_images: int) -> None:
    if num_slots != num_images:
        raise RecordError(
            f"{num_slots} '{IMAGE_SLOT}' marks for {num_images} images; expected one mark for each", "image_slots"
        )
    for index, text in enumerate(texts):
        if IMAGE_SLOT not in text:
            continue
        if roles[index] == "gpt":
            raise RecordError(
                f"turn {index}: an answer holds '{IMAGE_SLOT}'; only questions may show pictures", "image_slots"
            )
        num_slots -= text.count(IMAGE_SLOT)
        if not num_slots:  # mostly so after the first turn
            return


def describe(value: object) -> str:
    """Return type and beginning of a value, for messages."""
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple | dict) and not value:
        return f"an empty {type(value).__name__}"
    text = repr(value)
    return f"{type(value).__name__} {text[:40]}{'...' if len(text) > 40 else ''}"
