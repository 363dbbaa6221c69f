"""What must be known of every caption before one of them is chosen, found once and kept.

In: the captions of a source. Out: parts, parquet files of some thousand captions each, with what is wrong with them, a
hash of the picture, and the noun phrases. A part is called by a hash of all that it is made of, and is written whole or
not at all: work that was stopped goes on with the parts that are missing, and where a source has changed, its parts
have other names. Parts are made in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llava_pl.building.captions import Caption, locate
from llava_pl.building.noun_phrases import find_phrases, load_pipeline
from llava_pl.building.survey_pool import open_pool, until_stopped
from llava_pl.data.picture_files import check_picture
from llava_pl.data.records import parse_record
from llava_pl.types import IMAGE_SLOT, InputError, RecordError
from llava_pl.whole_file import whole_file

CAPTIONS_PER_PART = 5_000
DIGEST_BYTES = 16

SCHEMA = pa.schema(
    [
        ("where", pa.string()),
        ("image", pa.string()),
        ("text", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("num_bytes", pa.int64()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("digest", pa.binary()),
        ("phrases", pa.list_(pa.string())),
    ]
)
"""Columns of a part: those of `Caption`; what is wrong, as in `RecordError`, "" where nothing is; a hash of the
picture's bytes; and the phrases, where these are looked for."""


CAPTION_COLUMNS = ("where", "image", "text", "offset", "num_bytes", "id")
"""Those that are as the caption has them."""

MAX_CHARACTERS = 10_000
"""Of a caption: more is the text of a page, for which a parser takes gigabytes."""

Plan = dict[Path, int]
"""The parts of a source, in order, and how many captions each has."""


@dataclass(frozen=True, slots=True)
class SurveySettings:
    """What a part depends on beside its captions.

    Args:
        min_pixels: Pictures with a shorter side than this are too small.
        pipeline: Of spaCy, which finds noun phrases; None to look for none.
        pipeline_version: What `describe_pipeline` says of it.
    """

    min_pixels: int = 32
    pipeline: str | None = None
    pipeline_version: str = ""


def plan_parts(captions: Iterable[Caption], folder: Path, settings: SurveySettings) -> Plan:
    """Return the parts that captions make, of which none need be there.

    Args:
        captions: All of the source.
        folder: Where parts lie.
        settings: What is looked at.

    Raises:
        InputError: The source is broken somewhere.
    """
    return {folder / _name_part(number, part, settings): len(part) for number, part in enumerate(_cut(captions))}


def make_parts(
    captions: Iterable[Caption],
    plan: Plan,
    settings: SurveySettings,
    *,
    num_processes: int = 1,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Write the parts that are not there yet.

    Args:
        captions: Of which the plan was made; they are read if a part is to be written.
        plan: All parts.
        settings: Of the plan.
        num_processes: Parts that are made at once.
        advance: Told how many captions are done.

    Raises:
        InputError: The source is not the one that was planned, the pipeline cannot be loaded, or a process was ended.
    """
    missing = {path for path in plan if not path.exists()}
    advance(sum(number for path, number in plan.items() if path not in missing))
    if not missing:
        return
    running: dict[Future[None], int] = {}
    with open_pool(num_processes) as pool:
        for number, (path, part) in enumerate(zip(plan, _cut(captions), strict=False)):
            if path not in missing or path.name != _name_part(number, part, settings):
                continue
            missing.remove(path)
            running[pool.submit(write_part, part, path, settings)] = len(part)
            if len(running) > num_processes:  # one waits; more would only fill the memory
                _finish(wait(running, return_when=FIRST_COMPLETED).done, running, advance)
        _finish(list(running), running, advance)
    if missing:
        raise InputError("expected captions as they were when they were counted, found others; start again")


def write_part(captions: Sequence[Caption], path: Path, settings: SurveySettings) -> None:
    """Write what is found out about some captions.

    Raises:
        InputError: The pipeline cannot be loaded.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for caption in until_stopped(captions):
        reason, message, digest = look_at(caption, settings.min_pixels)
        found = {"file": str(caption.file.absolute()), "reason": reason, "message": message, "digest": digest}
        for name in (*CAPTION_COLUMNS, *found):
            value = found[name] if name in found else getattr(caption, name)
            columns[name].append(_storable(value) if isinstance(value, str) else value)
    columns["phrases"] = [[] for _ in captions]
    if settings.pipeline is not None:
        sound = [place for place, reason in enumerate(columns["reason"]) if not reason]
        texts = until_stopped([columns["text"][place] for place in sound])
        phrases = find_phrases(load_pipeline(settings.pipeline), texts)
        for place, of_caption in zip(sound, phrases, strict=True):
            columns["phrases"][place] = of_caption
    with whole_file(path) as part:
        pq.write_table(pa.table(columns, schema=SCHEMA), part, compression="zstd")


def look_at(caption: Caption, min_pixels: int) -> tuple[str, str, bytes]:
    """Return what is wrong with a caption in a word and in a line, both "" if nothing is, and its picture's hash."""
    digest = b""
    try:
        _check_text(caption)
        content = _read_picture(caption)
        size = check_picture(content, caption.image)
        digest = blake2b(content, digest_size=DIGEST_BYTES).digest()
        if min(size) < min_pixels:
            found = f"{size[0]} x {size[1]}"
            raise RecordError(f"expected at least {min_pixels} pixels a side, found {found}", "picture_tiny")
    except RecordError as error:
        return error.reason, locate(error, caption.where), digest
    return "", "", digest


def _check_text(caption: Caption) -> None:
    """Check that training takes a record of the caption.

    Raises:
        RecordError: It does not.
    """
    if caption.reason:
        raise RecordError(caption.message, caption.reason)
    if not caption.text:
        raise RecordError("expected a caption, found none", "caption_empty")
    if len(caption.text) > MAX_CHARACTERS:
        raise RecordError(
            f"expected at most {MAX_CHARACTERS:,} characters, found {len(caption.text):,}", "caption_long"
        )
    turns = [{"from": "human", "value": IMAGE_SLOT}, {"from": "gpt", "value": caption.text}]
    parse_record({"id": caption.id, "image": caption.image, "conversations": turns}, where=caption.where)


def _read_picture(caption: Caption) -> bytes:
    try:
        return caption.read_picture()
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise RecordError(f"{caption.file}: cannot be read ({found})", "picture_missing") from error


def _storable(text: str) -> str:
    """Return a text as UTF-8 can hold it."""
    return text.encode(errors="replace").decode()


def _name_part(number: int, captions: Iterable[Caption], settings: SurveySettings) -> str:
    """Return the file name of a part: a hash of its captions, the state of the files of its pictures, and settings."""
    state = blake2b(repr((1, settings)).encode(), digest_size=DIGEST_BYTES)
    file: Path | None = None
    stamp: tuple[object, ...] = ()
    for caption in captions:
        if caption.file != file:  # the pictures of a shard follow each other
            file, stamp = caption.file, _stamp(caption.file)
        fields = [getattr(caption, name) for name in (*CAPTION_COLUMNS, "reason", "message")]
        state.update(repr((fields, stamp)).encode())
    return f"{number:06d}-{state.hexdigest()}.parquet"


def _stamp(file: Path) -> tuple[object, ...]:
    """Return path, size and time of a file; one that is not there yet will be another."""
    try:
        stat = file.stat()
    except (OSError, ValueError):
        return (str(file.absolute()),)
    return str(file.absolute()), stat.st_size, stat.st_mtime_ns


def _cut(captions: Iterable[Caption]) -> Iterator[list[Caption]]:
    remaining = iter(captions)
    while part := list(islice(remaining, CAPTIONS_PER_PART)):
        yield part


def _finish(done: Iterable[Future[None]], running: dict[Future[None], int], advance: Callable[[int], object]) -> None:
    for future in done:
        future.result()
        advance(running.pop(future))
