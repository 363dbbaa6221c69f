"""Conversations about pictures in the forms that others keep them in, to LLaVA's and back.

In: one entry of a file. Out: the same in another form. What a form cannot say of a conversation is refused, never
dropped; fields that tell of an entry, such as its licence, are left behind.

| form | what an entry is |
| --- | --- |
| llava | ``image``, a name or a list of names; ``conversations`` of ``from`` (human, gpt) and ``value`` |
| sharegpt | ``images``, a list of names; ``conversations`` as before, or with from user and assistant |
| messages | ``images``, a list of names; ``messages`` of ``role`` (user, assistant) and ``content``, a text or parts |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from llava_pl.building.entry_pictures import as_names, check_names, name_of_part
from llava_pl.data.records import describe, parse_record
from llava_pl.types import IMAGE_SLOT, Record, RecordError

Form = Literal["llava", "sharegpt", "messages"]
FORMS: tuple[Form, ...] = get_args(Form)

_FROM = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_ROLES = {"human": "user", "gpt": "assistant"}

_MEANING = (
    "system", "tools", "functions", "tool_calls", "function_call", "video", "videos", "audio", "audios", "chosen",
    "rejected",
)  # fmt: skip
"""Fields of an entry that change what is learned from it."""

_NO_SYSTEM = "expected none, found a system message; a template of llava_pl writes its own, so take it out"


def read_entry(entry: Any, form: Form, name: str, where: str, *, is_strict: bool = True) -> Record:  # noqa: ANN401
    r"""Return the record that an entry stands for.

    Args:
        entry: A parsed JSON value.
        form: What it is.
        name: Of the record, if the entry has no ``id``.
        where: File and index, put in front of messages.
        is_strict: Refuse fields that a record has no place for and that change what is learned, such as ``tools``.

    Raises:
        RecordError: It is malformed, or says what a record cannot: a system message, a tool's turn, a picture that is
            no name of a file.

    >>> parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    >>> turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A dog."}]
    >>> read_entry({"messages": turns}, "messages", "7", "x").turns[0]
    Turn(role='human', text='<image>\nWhat?')
    """
    turns = _find_turns(entry, form, where)
    if is_strict:
        _check_fields(entry, turns, form, where)
    own = entry if form == "llava" else _as_llava(entry, turns, form, where)
    return parse_record({"id": name, **{key: value for key, value in own.items() if value is not None}}, where=where)


def write_entry(record: Record, form: Form) -> dict[str, Any]:
    """Return a record in a form; `read_entry` makes the same record of it.

    Raises:
        RecordError: A picture is no name of a file in a folder, or a mark shows none, which only records may say.

    >>> from llava_pl.types import Turn
    >>> write_entry(Record("7", (Turn("human", "Who?"), Turn("gpt", "I."))), "messages")["messages"][1]
    {'role': 'assistant', 'content': 'I.'}
    """
    check_names(record.images)
    images = list(record.images)
    if form != "llava":
        _check_marks([turn.text for turn in record.turns], images)
    if form == "messages":
        turns = [{"role": _ROLES[turn.role], "content": turn.text} for turn in record.turns]
        return {"id": record.id, "images": images, "messages": turns}
    conversations = [{"from": turn.role, "value": turn.text} for turn in record.turns]
    if form == "sharegpt":
        return {"id": record.id, "images": images, "conversations": conversations}
    shown = {"image": images[0] if len(images) == 1 else images} if images else {}
    return {"id": record.id, **shown, "conversations": conversations}


def find_pictures(entry: Any, form: Form, where: str) -> list[str]:  # noqa: ANN401  JSON is any type
    """Return what an entry calls its pictures, whatever else it says.

    Raises:
        RecordError: It is no entry of this form, or a picture has no name.

    >>> find_pictures({"image": "a.png", "system": "Be brief.", "conversations": []}, "llava", "x")
    ['a.png']
    """
    names = _listed(entry, where)
    for number, turn in enumerate(_find_turns(entry, form, where)):
        content = turn.get("content") if form == "messages" and isinstance(turn, Mapping) else None
        for part in content if isinstance(content, list) else ():
            name = name_of_part(part, f"{where}: messages[{number}]")
            names += [] if name is None else [name]
    if not all(isinstance(name, str) for name in names):
        raise RecordError(f"{where}: expected names of pictures, found {describe(names)}")
    return names


def _find_turns(entry: Any, form: Form, where: str) -> list[Any]:  # noqa: ANN401
    """Return the turns of an entry, unchecked."""
    if not isinstance(entry, Mapping):
        raise RecordError(f"{where}: expected an object, found {type(entry).__name__}")
    if form == "llava" and entry.get("images"):
        raise RecordError(
            f"{where}: field 'images': expected 'image', as LLaVA has it; take it as another form, with --from "
            "sharegpt or messages"
        )
    field = _names_of(form)[0]
    turns = entry.get(field)
    if not isinstance(turns, list):
        other = "messages" if field == "conversations" else "conversations"
        hint = f"; it has {other!r}, so look at --from" if isinstance(entry.get(other), list) else ""
        raise RecordError(f"{where}: field {field!r}: expected a list, found {describe(turns)}{hint}")
    return turns


def _names_of(form: Form) -> tuple[str, str, str]:
    return ("messages", "role", "content") if form == "messages" else ("conversations", "from", "value")


def _check_fields(entry: Mapping[str, Any], turns: list[Any], form: Form, where: str) -> None:
    """Check that nothing is said that a record has no place for."""
    for key in _MEANING:
        if _says(entry.get(key)):
            said = _NO_SYSTEM if key == "system" else f"expected none, found {describe(entry[key])}; take it out"
            raise RecordError(f"{where}: field {key!r}: {said}")
    field, role, text = _names_of(form)
    for number, turn in enumerate(turns):
        for key in turn if isinstance(turn, Mapping) else ():
            if key not in (role, text) and _says(turn[key]):
                raise RecordError(
                    f"{where}: {field}[{number}]: expected no field but {role}, {text}, found {key!r}, which a record "
                    "cannot say; take it out"
                )


def _says(value: object) -> bool:
    """Return whether a field is more than there; 0 and false say something, as a weight for one."""
    return value is not None and value not in ("", [], {})


def _listed(entry: Any, where: str) -> list[Any]:  # noqa: ANN401
    """Return the names in the fields of an entry."""
    if not isinstance(entry, Mapping):
        raise RecordError(f"{where}: expected an object, found {type(entry).__name__}")
    several, one = as_names(entry.get("images"), where), as_names(entry.get("image"), where)
    if several and one and several != one:
        raise RecordError(f"{where}: expected pictures in 'images' or in 'image', found both")
    return several or one


def _as_llava(entry: Mapping[str, Any], turns: list[Any], form: Form, where: str) -> dict[str, Any]:
    """Return an entry with LLaVA's fields; what they hold is checked later."""
    field, role, text = _names_of(form)
    images = _listed(entry, where)
    inline: list[Any] = []
    conversations: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        place = f"{where}: {field}[{number}]"
        found = turn.get(role) if isinstance(turn, Mapping) else turn
        if not (isinstance(turn, Mapping) and isinstance(found, str) and found in _FROM):
            said = _NO_SYSTEM if found == "system" else f"expected {role} user or assistant, found {_short(found)}"
            raise RecordError(f"{place}: {said}")
        content = turn.get(text)
        if form == "messages" and isinstance(content, list):
            content = _as_text(content, inline, place)
        conversations.append({"from": _FROM[found], "value": content})
    named = [name for name in inline if name is not None]
    if named and (images or len(named) < len(inline)):
        raise RecordError(f"{where}: expected pictures in 'images' or in the parts, found both")
    images = named or images
    try:
        _check_marks([turn["value"] for turn in conversations], images)
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None
    return {"id": entry.get("id"), "image": images or None, "conversations": conversations}


def _check_marks(texts: list[Any], images: list[Any]) -> None:
    """Check that no mark has lost its picture; only LLaVA's form takes the marks of a text alone for its letters."""
    num_marks = sum(text.count(IMAGE_SLOT) for text in texts if isinstance(text, str))
    if num_marks and not images:
        raise RecordError(
            f"expected a picture for each mark, found {num_marks} '{IMAGE_SLOT}' and no picture; name it in 'images', "
            "or take the mark out",
            "image_slots",
        )


def _as_text(content: list[Any], images: list[Any], where: str) -> str:
    """Return the text of a message, each picture a slot; the pictures that its parts name are added to a list."""
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        name = name_of_part(part, where)
        if kind == "text" and isinstance(part.get("text"), str) and name is None:
            texts.append(part["text"])
        elif kind == "text":
            raise RecordError(f"{where}: expected a text in each part of type text, and no more, found {_short(part)}")
        elif kind == "image" and not part.get("text"):
            texts.append(IMAGE_SLOT)
            images.append(name)
        else:
            found = kind if kind not in (None, "image") else part
            raise RecordError(f"{where}: expected parts of type text and image, found {_short(found)}")
    return "\n".join(texts)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
