"""Files to entries, one at a time: JSON lists, JSON lines, parquet files, folders of Hugging Face `datasets`.

In: a path. Out: a `Source`, an iterator over parsed but unchecked entries, in order, for `records.parse_fields`; the
store is built from it. No file is held in memory: a gigabyte of JSON passes through a window of about a megabyte.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llava_pl.data.json_files import read_json, read_json_object
from llava_pl.data.json_window import JsonWindow
from llava_pl.data.records import describe
from llava_pl.types import InputError

Advance = Callable[[float], object]
"""Told after each piece how many bytes were read: what a progress bar needs."""

FIELDS = ("id", "image", "conversations")
"""What a record is made of."""

_TURN_FIELDS = {"conversations": ("from", "value"), "messages": ("role", "content")}
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from.

    Args:
        path: What the user named; it stands in messages.
        files: All files that the entries depend on.
        read: Yields the entries in order, and tells how many bytes were read.
        variant: Tells apart what is read from the same files in several ways.
    """

    path: Path
    files: tuple[Path, ...]
    read: Callable[[Advance], Iterator[Any]]
    variant: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not there or can be read only once, before anything is built."""
        for file in self.files:
            if not file.exists():
                raise InputError(f"{file}: cannot be read (No such file or directory); check the path")
            if not file.is_file():
                found = "a folder" if file.is_dir() else "a device, pipe or socket"
                raise InputError(f"{file}: expected a regular file, found {found}; copy its content into a file")

    @classmethod
    def of(cls, path: str | Path) -> Source:
        """Return the source of a path that `read_entries` reads.

        Raises:
            InputError: Nothing is there, or a folder of another kind.
        """
        return cls(Path(path), source_files(path), lambda advance: read_entries(path, advance=advance))


def source_files(path: str | Path) -> tuple[Path, ...]:
    """Return the files that a source consists of: one file, or all shards of a folder.

    Raises:
        InputError: Nothing is there, or a folder is neither saved by `datasets` nor holds parquet files.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: cannot be read (No such file or directory); check the path")
    if not path.is_dir():
        return (path,)
    if (path / "state.json").is_file():
        return (path / "state.json", *_dataset_shards(path))
    if (path / "dataset_dict.json").is_file():
        splits = read_json_object(path / "dataset_dict.json").get("splits")
        raise InputError(
            f"{path}: expected one data set, found a folder of the splits {splits}; name one: {path}/SPLIT"
        )
    if files := sorted(path.glob("*.parquet")):
        return tuple(files)
    raise InputError(
        f"{path}: expected a folder written by datasets' save_to_disk or one with parquet files, found neither; "
        "check the path"
    )


def read_entries(
    path: str | Path,
    *,
    fields: Collection[str] | None = FIELDS,
    chunk_size: int = 2**20,
    advance: Advance | None = None,
) -> Iterator[Any]:
    """Yield the entries of a source in order, parsed but not checked.

    Args:
        path: A ``.jsonl`` or ``.ndjson`` file of one entry a line, a ``.parquet`` file or a folder of them, a folder
            written by `datasets`' ``save_to_disk``; any other file is a JSON list.
        fields: Columns to read of parquet files and of `datasets`, as far as they are there; None for all. An entry of
            JSON has all its fields in any case.
        chunk_size: Bytes of text read at once.
        advance: Called with the number of bytes that were read since the last call.

    Raises:
        InputError: A file is missing or broken; for JSON the message is that of `read_json`.
    """
    path = Path(path)
    advance = advance or (lambda _: None)
    files = source_files(path)
    try:
        if path.is_dir() and files[0].name == "state.json":
            yield from _read_dataset_shards(files[1:], fields, advance)
        elif files[0].suffix.lower() == ".parquet":
            yield from _read_parquet(files, fields, advance)
        elif path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _read_json_lines(path, _read_text(path, chunk_size, advance))
        else:
            yield from _read_json_list(path, _read_text(path, chunk_size, advance))
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read ({reason}); check the path, or get the file again") from error


def _read_text(path: Path, chunk_size: int, advance: Advance) -> Iterator[str]:
    """Yield the text in pieces, none empty, as `read_json` does: no byte order mark, line ends as Python reads them."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    num_bytes = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(chunk_size)
            num_bytes += len(chunk)
            advance(len(chunk))
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                offset = num_bytes - len(error.object) + error.start
                raise InputError(
                    f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x} at offset {offset}"
                ) from error
            if text:
                yield text
            if not chunk:
                return


def _read_json_list(path: Path, chunks: Iterator[str]) -> Iterator[Any]:
    window = JsonWindow(path, chunks)
    if window.peek() != "[":
        content = read_json(path)  # says so if it is no JSON at all
        raise InputError(f"{path}: expected a JSON list of records, found {describe(content)}")
    window.start += 1
    mark = window.peek()
    if mark == "]":
        window.start += 1
    while mark != "]":
        yield window.read_value()
        mark = window.peek()
        if mark not in (",", "]"):
            raise window.error("Expecting ',' delimiter")
        window.start += 1
    if window.peek():
        raise window.error("Extra data")


def _read_json_lines(path: Path, chunks: Iterator[str]) -> Iterator[Any]:
    """Yield one entry a line; blank lines are passed over."""
    for number, line in enumerate(_lines(chunks), start=1):
        if not line.isspace() and line:
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: invalid JSON at line {number}, column {error.colno}: {error.msg}") from error
            except (RecursionError, ValueError) as error:
                raise InputError(f"{path}: invalid JSON at line {number}: {error}") from error


def _lines(chunks: Iterator[str]) -> Iterator[str]:
    # Not str.splitlines: it also cuts at characters such as U+2028, which JSON strings may hold.
    parts: list[str] = []
    for chunk in chunks:
        first, *others = chunk.split("\n")
        parts.append(first)
        for other in others:
            yield "".join(parts)
            parts = [other]
    yield "".join(parts)


def _read_parquet(files: Iterable[Path], fields: Collection[str] | None, advance: Advance) -> Iterator[Any]:
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                names = None if fields is None else [name for name in fields if name in file.schema_arrow.names]
                size_per_row = path.stat().st_size / max(file.metadata.num_rows, 1)
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=names):
                    yield from _rows(batch, fields)
                    advance(size_per_row * batch.num_rows)
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise _not_arrow(path, "a parquet file", error) from error


def _dataset_shards(folder: Path) -> tuple[Path, ...]:
    state_path = folder / "state.json"
    state = read_json_object(state_path)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(f"{state_path}: the data set is a selection of its rows; save it after flatten_indices()")
    try:
        shards = tuple(folder / shard["filename"] for shard in state["_data_files"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{state_path}: expected '_data_files', a list of objects with 'filename', as save_to_disk writes it; "
            f"found the fields {sorted(state)}"
        ) from error
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"{shard}: named in {state_path} but not there; copy the whole folder")
    return shards


def _read_dataset_shards(shards: Iterable[Path], fields: Collection[str] | None, advance: Advance) -> Iterator[Any]:
    for path in shards:
        try:
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                done = 0
                for batch in stream:
                    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                        yield from _rows(batch.slice(start, _ROWS_AT_ONCE), fields)
                    advance(file.tell() - done)
                    done = file.tell()
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise _not_arrow(path, "an Arrow stream, as save_to_disk writes it", error) from error


def _rows(batch: pa.RecordBatch, fields: Collection[str] | None) -> Iterator[dict[str, Any]]:
    if fields is not None:
        batch = batch.select([name for name in fields if name in batch.schema.names])
    of_turns = [(name, *_TURN_FIELDS[name]) for name in _TURN_FIELDS if name in batch.schema.names]
    for row in batch.to_pylist():
        for name, who, what in of_turns:
            turns = row[name]
            # A `datasets.Sequence` of objects is stored as an object of lists.
            if isinstance(turns, Mapping) and all(isinstance(turns.get(key), list) for key in (who, what)):
                lists = {key: each for key, each in turns.items() if isinstance(each, list) and each}
                row[name] = [dict(zip(lists, each, strict=True)) for each in zip(*lists.values(), strict=False)]
        yield row


def _not_arrow(path: Path, expected: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path}: expected {expected}, found something else or a broken one ({reason}); get it again")
