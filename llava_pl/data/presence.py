"""Pictures that are not there, found before a run starts: a mistyped folder must not cost hours.

In: the records of a store, and the image folder. Out: the records that name a file which does not exist. Files are not
opened; `llava-pl data check` does that.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from llava_pl.data.store import RecordStore

LISTED_FROM = 32
"""Files asked for in a folder, from which on it is listed once instead of being asked for each of them."""


def find_missing(store: RecordStore, image_folder: Path) -> dict[int, str]:
    """Return the first picture that is missing of each record that misses one, by the index of the record.

    A folder that cannot be looked into counts as complete: what is wrong with it, opening the first file will tell.

    Args:
        store: Whose records are looked at.
        image_folder: Where their pictures lie.
    """
    names = store.list_pictures()
    by_folder: dict[str, set[str]] = defaultdict(set)
    for _, name in names:
        folder, _, file = name.rpartition("/")
        by_folder[folder].add(file)
    missing = {
        f"{folder}/{file}" if folder else file
        for folder, files in by_folder.items()
        for file in _missing_of(image_folder / folder, files)
    }
    found: dict[int, str] = {}
    for index, name in names:
        if name in missing:
            found.setdefault(index, name)
    return found


def _missing_of(folder: Path, files: set[str]) -> set[str]:
    try:
        if len(files) >= LISTED_FROM:
            with os.scandir(folder) as entries:
                files = files - {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return files
    except (OSError, ValueError):  # ValueError: a null character
        return set()
    # Asked for by name, too: on a disk that takes "A.JPG" for "a.jpg" the list alone would be wrong.
    return {file for file in files if _is_missing(folder / file)}


def _is_missing(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
