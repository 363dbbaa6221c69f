"""The folder that alignment pairs are built in.

In: captions. Out: ``records.json``; ``images/`` where pictures lay in shards; ``left_out.jsonl``, each caption that is
wrong, with the reason; ``report.json`` and ``report.html``. ``parts/`` keeps the survey: by it a build that was stopped
goes on, and the next one, with another balance, takes seconds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from llava_pl.building.alignment import Choice, choose, make_records
from llava_pl.building.alignment_report import alignment_page
from llava_pl.building.balance import Balance
from llava_pl.building.captions import Caption
from llava_pl.building.survey import SurveySettings
from llava_pl.data.json_files import read_json_object
from llava_pl.types import InputError
from llava_pl.whole_file import whole_file

NUM_EXAMPLES = 12


def digest_captions(captions: Iterable[Caption]) -> tuple[int, str]:
    """Return how many captions a source has, and a hash of them; what its pictures hold is not looked at.

    Raises:
        InputError: The source is broken somewhere.
    """
    number, state = 0, blake2b(digest_size=16)
    for caption in captions:
        number += 1
        state.update(repr((caption.image, caption.text, caption.offset, caption.num_bytes)).encode())
    return number, state.hexdigest()


def claim_folder(folder: Path, digest: str, settings: SurveySettings) -> Path:
    """Make the folder of the survey, and return it; one of the same captions and settings is taken as it is.

    Raises:
        InputError: The folder holds another survey, or something else.
    """
    wanted = {"version": 1, "captions": digest, **asdict(settings)}
    note = folder / "survey.json"
    if note.exists():
        if (found := read_json_object(note)) != wanted:
            differing = ", ".join(name for name in wanted if found.get(name) != wanted[name])
            raise InputError(
                f"{folder}: expected a new folder or one of the same captions and settings, found one of other "
                f"{differing}; choose another name"
            )
    elif folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found a file; choose another name")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: expected a new folder or one that was begun here, found other files in it")
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with whole_file(note) as part:
        part.write_text(json.dumps(wanted, indent=2) + "\n")
    return parts


def write_alignment(
    folder: Path,
    parts: Sequence[Path],
    wordings: Sequence[str],
    balance: Balance | None,
    seed: int,
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
                _extract(caption, folder / "images")
            if number in examples:
                shown.append(caption)
            advance()
        file.write("\n]\n" if kept else "[]\n")
    with whole_file(folder / "left_out.jsonl") as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _list_wrong(parts))
    counts = _count(choice)
    with whole_file(folder / "report.json") as part:
        part.write_text(json.dumps(counts, indent=2) + "\n")
    with whole_file(folder / "report.html") as part:
        part.write_text(alignment_page(counts, choice, shown), encoding="utf-8")
    return counts


def _extract(caption: Caption, folder: Path) -> None:
    path = folder / caption.image
    if not (path.exists() and path.stat().st_size == caption.num_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(caption.read_picture())


def _list_wrong(parts: Iterable[Path]) -> Iterator[dict[str, str]]:
    columns = ["image", "reason", "message"]
    return chain.from_iterable(
        pq.read_table(part, columns=columns, filters=[("reason", "!=", "")]).to_pylist() for part in parts
    )


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
