"""Conversations about pictures in the forms that others keep them in, to LLaVA's and back.

In: one entry of a file. Out: the same in another form. What a form cannot say is refused, never dropped.

| form | what an entry is |
| --- | --- |
| llava | ``image``, a name or a list of names; ``conversations`` of ``from`` (human, gpt) and ``value`` |
| sharegpt | ``images``, a list of names; ``conversations`` as before, or with from user and assistant |
| messages | ``images``, a list of names; ``messages`` of ``role`` (user, assistant) and ``content``, a text or parts |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from llava_pl.data.records import parse_record
from llava_pl.types import IMAGE_SLOT, Record, RecordError

Form = Literal["llava", "sharegpt", "messages"]
FORMS: tuple[Form, ...] = get_args(Form)

_FROM = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_ROLES = {"human": "user", "gpt": "assistant"}


def read_entry(entry: Any, form: Form, name: str, where: str) -> Record:  # noqa: ANN401  JSON is any type
    r"""Return the record that an entry stands for.

    Args:
        entry: A parsed JSON value.
        form: What it is.
        name: Of the record, if the entry has no ``id``.
        where: File and index, put in front of messages.

    Raises:
        RecordError: It is malformed, or says what a record cannot: a system message, a tool's turn, a picture that is
            no name of a file.

    >>> parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    >>> turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A dog."}]
    >>> read_entry({"messages": turns}, "messages", "7", "x").turns[0]
    Turn(role='human', text='<image>\nWhat?')
    """
    if not isinstance(entry, Mapping):
        raise RecordError(f"{where}: expected an object, found {type(entry).__name__}")
    if form == "llava" and entry.get("images"):
        raise RecordError(
            f"{where}: field 'images': expected 'image', as LLaVA has it; take it as sharegpt or messages"
        )
    own = entry if form == "llava" else _as_llava(entry, form, where)
    return parse_record({"id": name, **{key: value for key, value in own.items() if value is not None}}, where=where)


def write_entry(record: Record, form: Form) -> dict[str, Any]:
    """Return a record in a form; `read_entry` makes the same record of it.

    >>> from llava_pl.types import Turn
    >>> write_entry(Record("7", (Turn("human", "Who?"), Turn("gpt", "I."))), "messages")["messages"][1]
    {'role': 'assistant', 'content': 'I.'}
    """
    images = list(record.images)
    if form == "messages":
        turns = [{"role": _ROLES[turn.role], "content": turn.text} for turn in record.turns]
        return {"id": record.id, "images": images, "messages": turns}
    conversations = [{"from": turn.role, "value": turn.text} for turn in record.turns]
    if form == "sharegpt":
        return {"id": record.id, "images": images, "conversations": conversations}
    shown = {"image": images[0] if len(images) == 1 else images} if images else {}
    return {"id": record.id, **shown, "conversations": conversations}


def _as_llava(entry: Mapping[str, Any], form: Form, where: str) -> dict[str, Any]:
    """Return an entry with LLaVA's fields; what they hold is checked later."""
    field, role, text = ("messages", "role", "content") if form == "messages" else ("conversations", "from", "value")
    turns = entry.get(field)
    if not isinstance(turns, list):
        raise RecordError(f"{where}: field '{field}': expected a list, found {type(turns).__name__}")
    if entry.get("system"):
        raise RecordError(f"{where}: field 'system': {_NO_SYSTEM}")
    images = entry.get("images", entry.get("image")) or []
    images = list(images) if isinstance(images, list) else [images]
    inline: list[Any] = []
    conversations = []
    for number, turn in enumerate(turns):
        place = f"{where}: {field}[{number}]"
        if not isinstance(turn, Mapping) or turn.get(role) not in _FROM:
            found = turn.get(role) if isinstance(turn, Mapping) else turn
            said = _NO_SYSTEM if found == "system" else f"expected {role} user or assistant, found {found!r}"
            raise RecordError(f"{place}: {said}")
        conversations.append({"from": _FROM[turn[role]], "value": _as_text(turn.get(text), inline, place)})
    named = [name for name in inline if name is not None]
    if named and (images or len(named) < len(inline)):
        raise RecordError(f"{where}: expected pictures in 'images' or in the parts, found both")
    return {"id": entry.get("id"), "image": named or images or None, "conversations": conversations}


_NO_SYSTEM = "expected none, found a system message; a template of llava_pl writes its own, so take it out"


def _as_text(content: Any, images: list[Any], where: str) -> Any:  # noqa: ANN401  JSON is any type
    """Return the text of a message, each picture a slot; the pictures that its parts name are added to a list."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            texts.append(part.get("text"))
        elif kind == "image":
            texts.append(IMAGE_SLOT)
            images.append(next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None))
        else:
            raise RecordError(f"{where}: expected parts of type text and image, found {kind or part!r}")
    if not all(isinstance(text, str) for text in texts):
        raise RecordError(f"{where}: expected a text in each part of type text, found none")
    return "\n".join(texts)
