"""ScienceQA to other forms: the official folder to LLaVA's JSON, Hugging Face's parquet files to the official folder.

In: a folder. Out: files that the original's training script reads, or that this package's `ScienceQADataModule` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llava_pl.data.scienceqa import (
    Problem,
    answer_text,
    check_problem,
    check_prompt_format,
    question_text,
    read_scienceqa,
)
from llava_pl.types import IMAGE_SLOT, InputError
from llava_pl.whole_file import whole_file

SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
"""How a parquet file is called, up to the first dash or dot, and the split that it holds."""

FIELDS = [field.name for field in fields(Problem) if field.name != "id"]
_ROWS_AT_ONCE = 64  # with their pictures


def write_llava_json(root: Path, split: str, prompt_format: str, folder: Path) -> Path:
    """Write the conversations of a split as the original's ``convert_sqa_to_llava.py`` does, byte for byte.

    File names of pictures start from the folder of their split, ``images/<split>``.

    Args:
        root: The official folder.
        split: Key of ``pid_splits.json``.
        prompt_format: Such as QCM-LEA.
        folder: Where ``llava_SPLIT_FORMAT.json`` goes.

    Returns:
        The file.

    Raises:
        InputError: A problem is wrong, the split is unknown, or there is no such format.
    """
    check_prompt_format(prompt_format)
    entries = []
    for problem in read_scienceqa(root, split).values():
        question, answer = question_text(problem, prompt_format), answer_text(problem, prompt_format)
        entry: dict[str, object] = {"id": problem.id}
        if problem.image is not None:
            entry["image"] = f"{problem.id}/{problem.image}"
            question = f"{question}\n{IMAGE_SLOT}"
        entry["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        entries.append(entry)
    if not is_file_name(split):
        raise InputError(f"{root / 'pid_splits.json'}: split {split!r}: expected a name without slashes")
    path = folder / f"llava_{split}_{prompt_format}.json"
    _write(path, json.dumps(entries, indent=2))
    return path


def is_file_name(name: str) -> bool:
    """Return whether a name can be a file's within its folder."""
    return name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def is_parquet_folder(folder: Path) -> bool:
    """Return whether a folder holds ScienceQA as Hugging Face's hub has it, not in its official layout."""
    return not (folder / "problems.json").exists() and any(folder.rglob("*.parquet"))


def write_official_folder(parquet: Path, root: Path) -> dict[str, int]:
    """Write the official layout of what parquet files hold: problems, splits, and pictures as they are.

    The files of the hub have no identifiers: unless there is a column ``id``, a problem is called by its split and its
    place there, so that answers to it cannot be matched with those of the official folder.

    Args:
        parquet: Folder with files called as their splits (train-00000-of-00001.parquet).
        root: Folder to write.

    Returns:
        How many problems each split has.

    Raises:
        InputError: A file has other columns, or a name that is no split; or the folder holds a data set already.
    """
    if (root / "problems.json").exists():
        raise InputError(f"{root}: expected a new folder, found a data set; choose another one")
    problems: dict[str, Mapping[str, Any]] = {}
    splits: dict[str, list[str]] = {}
    for path in sorted(parquet.rglob("*.parquet")):
        split = SPLITS.get(path.name.partition("-")[0].partition(".")[0])
        if split is None:
            raise InputError(f"{path}: expected a name that begins with one of {', '.join(SPLITS)}")
        for row in _read_rows(path):
            ids = splits.setdefault(split, [])
            given = row.get("id")
            name = f"{split}{len(ids)}" if given is None else str(given)
            where = f"{path}: row {len(ids)}"
            if name in problems or not is_file_name(name):
                raise InputError(f"{where}: column 'id': expected a name of its own for each problem, found {name!r}")
            content, image = _find_picture(row["image"], where)
            problem = {field: row.get(field) for field in FIELDS} | {"image": image, "split": split}
            check_problem(path, name, problem)
            if content is not None and image is not None:
                _write_picture(content, root / "images" / split / name / image)
            problems[name] = problem
            ids.append(name)
    root.mkdir(parents=True, exist_ok=True)
    _write(root / "pid_splits.json", json.dumps(splits))
    _write(root / "problems.json", json.dumps(problems))  # last: with it the folder is a whole one
    return {split: len(ids) for split, ids in splits.items()}


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as a parquet file ({error})") from error
    missing = {"question", "choices", "answer", "image"} - set(file.schema_arrow.names)
    if missing:
        raise InputError(f"{path}: expected ScienceQA's columns, found none called {', '.join(sorted(missing))}")
    try:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); download it anew") from error


def _find_picture(picture: object, where: str) -> tuple[bytes | None, str | None]:
    """Return the bytes of a picture and its name, None for a problem without one."""
    if picture is None:
        return None, None
    content, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, None)
    if not isinstance(content, bytes):
        raise InputError(f"{where}: column 'image': expected the bytes of a picture, found none; download it anew")
    name = Path(path if isinstance(path, str) else "image.png").name
    return content, name or "image.png"


def _write_picture(content: bytes, path: Path) -> None:
    """Write a picture as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(content, encoding="utf-8")
