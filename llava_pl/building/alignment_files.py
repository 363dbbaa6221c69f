"""The folder that alignment pairs are built in.

In: captions. Out: ``records.json``; ``images/`` where pictures lay in shards; ``left_out.jsonl``, each caption that is
wrong or shows a picture again, with the reason; ``report.json`` and ``report.html``. ``parts/`` keeps the survey: by it
a build that was stopped goes on, and the next one, with another balance, takes seconds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from llava_pl.building.alignment import REPEATED, Choice, choose, make_records
from llava_pl.building.alignment_report import alignment_page
from llava_pl.building.balance import Balance
from llava_pl.building.captions import Caption
from llava_pl.data.json_files import read_json_object
from llava_pl.data.store_cache import locked
from llava_pl.types import InputError
from llava_pl.whole_file import whole_file

NOTE, PARTS, IMAGES, LEFT_OUT = "survey.json", "parts", "images", "left_out.jsonl"

NUM_EXAMPLES = 12


def check_folder(folder: Path, source: Path) -> None:
    """Check that a folder is new, or one that was begun with the same source.

    Raises:
        InputError: It is another one.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found a file; choose another name")
    note = folder / NOTE
    found = read_json_object(note).get("source") if note.exists() else None
    others = [each for each in folder.iterdir() if not each.name.startswith(".")]  # what a kill leaves
    if found != str(source.resolve()) and (note.exists() or others):
        what = f"one of {found}" if note.exists() else "other files in it"
        raise InputError(f"{folder}: expected a new folder or one of {source}, found {what}; choose another name")


@contextmanager
def open_folder(folder: Path, source: Path) -> Iterator[Path]:
    """Make the folder or go on with it, for this process alone, and yield where the parts of the survey lie.

    Raises:
        InputError: As `check_folder`; another process may have begun it since.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, is_kept=True):
        check_folder(folder, source)
        parts = folder / PARTS
        for left in (*folder.glob(".*.part"), *parts.glob(".*.part"), *(folder / IMAGES).rglob(".*.part")):  # by a kill
            left.unlink()
        with whole_file(folder / NOTE) as part:
            part.write_text(json.dumps({"source": str(source.resolve())}, indent=2) + "\n")
        parts.mkdir(exist_ok=True)
        yield parts


def write_alignment(
    folder: Path,
    parts: Sequence[Path],
    wordings: Sequence[str],
    balance: Balance | None,
    seed: int,
    settings: Mapping[str, object],
    *,
    extract: bool,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Write all that is made of a survey, and return its counts; the same survey and arguments make the same bytes.

    Args:
        folder: Where.
        parts: Of the survey, in order.
        wordings: Questions to draw from.
        balance: None to keep all sound captions.
        seed: Of the questions.
        settings: What else the report is to say of them, by name.
        extract: Copy the pictures of kept captions to ``images/``.
        advance: Told after each record.
    """
    choice = choose(parts, balance)
    examples = set(random.Random(seed).sample(range(kept := int(choice.is_kept.sum())), min(NUM_EXAMPLES, kept)))
    shown: list[Caption] = []
    with whole_file(folder / "records.json") as part, part.open("w", encoding="utf-8") as file:
        for number, (record, caption) in enumerate(make_records(parts, choice.is_kept, wordings, seed)):
            file.write((",\n" if number else "[\n") + json.dumps(record, ensure_ascii=False))
            if extract:
                _extract(caption, folder / IMAGES)
            if number in examples:
                shown.append(caption)
            advance()
        file.write("\n]\n" if kept else "[]\n")
    with whole_file(folder / LEFT_OUT) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _list_wrong(parts, choice))
    counts = _count(choice)
    with whole_file(folder / "report.json") as part:
        part.write_text(json.dumps({"settings": settings, "counts": counts}, indent=2) + "\n", encoding="utf-8")
    with whole_file(folder / "report.html") as part:
        part.write_text(alignment_page(counts, settings, choice, shown), encoding="utf-8")
    return counts


def _extract(caption: Caption, folder: Path) -> None:
    path = folder / caption.image
    content = caption.read_picture()
    if not (path.exists() and path.read_bytes() == content):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(content)


def _list_wrong(parts: Sequence[Path], choice: Choice) -> Iterator[dict[str, str]]:
    """Yield captions that are wrong, or repeat a picture, in their order."""
    first_of: dict[int, int] = dict(choice.repeats.tolist())
    names: dict[int, str] = {}
    wanted, start = set(first_of.values()), 0
    for part in parts:
        table = pq.read_table(part, columns=["image", "reason", "message"])
        for number, row in enumerate(table.to_pylist(), start=start):
            if number in wanted:
                names[number] = row["image"]
            if number in first_of:
                row |= {"reason": REPEATED, "message": f"the very bytes of {names[first_of[number]]}"}
            if row["reason"]:
                yield row
        start += len(table)


def _count(choice: Choice) -> dict[str, int]:
    """Return what stands in the report, by its name there."""
    counts = {"captions": len(choice.is_kept), "records": int(choice.is_kept.sum())}
    counts |= {f"left out: {reason}": number for reason, number in sorted(choice.left_out.items()) if number}
    if choice.phrases:
        counts |= {
            "noun phrases": len(choice.phrases),
            "noun phrases in records": int(np.count_nonzero(choice.after)),
        }
    return counts
