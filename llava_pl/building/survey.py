"""What must be known of every caption before one of them is chosen, found once and kept.

In: the captions of a source. Out: parts, parquet files of some thousand captions each, with what is wrong with them, a
hash of the picture, and the noun phrases. A part is written whole or not at all and depends on its captions alone: work
that was stopped goes on with the next part, and parts are made in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llava_pl.building.captions import Caption
from llava_pl.building.noun_phrases import find_phrases, load_pipeline
from llava_pl.data.picture_files import check_picture
from llava_pl.lifeline import end_with
from llava_pl.types import RecordError
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
        ("reason", pa.string()),
        ("message", pa.string()),
        ("digest", pa.binary()),
        ("phrases", pa.list_(pa.string())),
    ]
)
"""Columns of a part: those of `Caption`; what is wrong, as in `RecordError`, "" where nothing is; a hash of the
picture's bytes; and the phrases, where these are looked for."""


@dataclass(frozen=True, slots=True)
class SurveySettings:
    """What a part depends on beside its captions.

    Args:
        min_pixels: Pictures with a shorter side than this are too small.
        pipeline: Of spaCy, which finds noun phrases; None to look for none.
    """

    min_pixels: int = 32
    pipeline: str | None = None


def make_parts(
    captions: Iterable[Caption],
    num_captions: int,
    folder: Path,
    settings: SurveySettings,
    *,
    num_processes: int = 1,
    advance: Callable[[int], object] = lambda _: None,
) -> list[Path]:
    """Write the parts that a folder does not have yet, and return all of them in order.

    Args:
        captions: All of the source, which is read if a part is to be written.
        num_captions: How many they are.
        folder: Where parts lie; those that are there were made of the same captions and settings.
        settings: What is looked at.
        num_processes: Parts that are made at once.
        advance: Told how many captions are done.

    Raises:
        InputError: The source is broken further on, or the pipeline cannot be loaded.
    """
    num_parts = -(-num_captions // CAPTIONS_PER_PART)
    paths = [folder / f"{number:06d}.parquet" for number in range(num_parts)]
    if all(path.exists() for path in paths):
        advance(num_captions)
        return paths
    running: dict[Future[None], int] = {}
    with _start_pool(num_processes) as pool:
        for path, part in zip(paths, _cut(captions), strict=True):
            if path.exists():
                advance(len(part))
                continue
            running[pool.submit(write_part, part, path, settings)] = len(part)
            if len(running) > num_processes:  # one waits; more would only fill the memory
                _finish(wait(running, return_when=FIRST_COMPLETED).done, running, advance)
        _finish(list(running), running, advance)
    return paths


def write_part(captions: Sequence[Caption], path: Path, settings: SurveySettings) -> None:
    """Write what is found out about some captions.

    Raises:
        InputError: The pipeline cannot be loaded.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for caption in captions:
        reason, message, digest = look_at(caption, settings.min_pixels)
        row = {**asdict(caption), "file": str(caption.file), "reason": reason, "message": message, "digest": digest}
        for name, value in row.items():
            columns[name].append(value)
    if settings.pipeline is None:
        columns["phrases"] = [[]] * len(captions)
    else:
        columns["phrases"] = list(find_phrases(load_pipeline(settings.pipeline), columns["text"]))
    with whole_file(path) as part:
        pq.write_table(pa.table(columns, schema=SCHEMA), part, compression="zstd")


def look_at(caption: Caption, min_pixels: int) -> tuple[str, str, bytes]:
    """Return what is wrong with a caption in a word and in a line, both "" if nothing is, and its picture's hash."""
    if not caption.text:
        return "caption_empty", f"{caption.where}: expected a caption, found none", b""
    try:
        content = caption.read_picture()
        size = check_picture(content, caption.image)
    except OSError as error:
        return "picture_missing", f"{caption.where}: {caption.file}: cannot be read ({error.strerror})", b""
    except RecordError as error:
        return error.reason, f"{caption.where}: {error}", b""
    digest = blake2b(content, digest_size=DIGEST_BYTES).digest()
    if min(size) < min_pixels:
        found = f"{size[0]} x {size[1]}"
        return "picture_tiny", f"{caption.where}: expected at least {min_pixels} pixels a side, found {found}", digest
    return "", "", digest


def _start_pool(num_processes: int) -> Executor:
    if num_processes == 1:
        return ThreadPoolExecutor(1)
    # Not forked: this process may have threads. After a kill they would wait for work forever.
    return ProcessPoolExecutor(num_processes, get_context("spawn"), initializer=end_with, initargs=(os.getpid(),))


def _cut(captions: Iterable[Caption]) -> Iterator[list[Caption]]:
    remaining = iter(captions)
    while part := list(islice(remaining, CAPTIONS_PER_PART)):
        yield part


def _finish(done: Iterable[Future[None]], running: dict[Future[None], int], advance: Callable[[int], object]) -> None:
    for future in done:
        future.result()
        advance(running.pop(future))
