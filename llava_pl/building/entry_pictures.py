"""What an entry says of its pictures, to the names of files in a folder.

In: the value of a field, or a part of a message. Out: names; what is no name of a file in a folder is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from llava_pl.types import RecordError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(data|file|blob):", re.IGNORECASE)


def as_names(value: Any, where: str) -> list[Any]:  # noqa: ANN401  JSON is any type
    """Return the names that a field holds, one or a list; whether they are strings is checked later.

    Raises:
        RecordError: A picture is there by its bytes.

    >>> as_names([{"bytes": None, "path": "a.png"}, "b.png"], "x")
    ['a.png', 'b.png']
    """
    pictures = value if isinstance(value, list) else [] if value is None or value == "" else [value]
    return [_as_name(picture, f"{where}: picture {number}") for number, picture in enumerate(pictures)]


def name_of_part(part: Any, where: str) -> Any:  # noqa: ANN401
    """Return the name that a part of a message gives its picture, None if it gives none.

    Raises:
        RecordError: The picture is there by its address, in OpenAI's form, or by its bytes.
    """
    if not isinstance(part, Mapping):
        return None
    if part.get("type") == "image_url" or part.get("image_url") is not None:
        raise RecordError(
            f"{where}: expected pictures by the names of their files, found an 'image_url'; save the picture, and "
            'write {"type": "image", "image": NAME}'
        )
    named = (part[key] for key in ("image", "path", "url") if part.get(key) is not None)
    return _as_name(next(named, None), where)


def check_names(names: Iterable[str]) -> None:
    """Check that pictures are files in a folder, so far as their names say it.

    Raises:
        RecordError: A name is an address, the picture itself, or leads out of the folder (path_outside).

    >>> check_names(["a.png", "coco/b.png"])
    """
    for name in names:
        found, hint = "", "write its name from the image folder on"
        if _ADDRESS.match(name):
            found, hint = "an address or the picture itself", "save it in the image folder, and write the file's name"
        elif name.startswith("/") or PureWindowsPath(name).is_absolute():
            found = "an absolute path"
        elif ".." in name and (".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts):
            found = "a path with '..'"
        if found:
            shown = name if len(name) <= 60 else f"{name[:60]}..."
            raise RecordError(
                f"picture {shown!r}: expected the name of a file in the image folder, found {found}; {hint}",
                "path_outside",
            )


def _as_name(picture: Any, where: str) -> Any:  # noqa: ANN401
    """Return the name of a picture, or what is in its place; `datasets` has an object of bytes and a path."""
    if not isinstance(picture, Mapping):
        return picture
    if picture.get("bytes") is not None:
        raise RecordError(
            f"{where}: expected the name of a file, found the bytes of a picture; save each picture (`datasets` opens "
            "it: row['images'][0].save(NAME)), and write the names"
        )
    return picture.get("path")
