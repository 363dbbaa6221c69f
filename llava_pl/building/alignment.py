"""Surveyed captions to the records of stage `align`: a question about a picture, answered by its caption.

In: the parts of a survey. Out: a `Choice` among their captions, and the records of those that are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llava_pl.building.balance import Balance, draw_captions
from llava_pl.building.captions import Caption
from llava_pl.building.wordings import ask_about_picture

REPEATED = "picture_repeated"
NO_PHRASE, RARE_PHRASES, NOT_DRAWN = "phrase_none", "phrases_rare", "not_drawn"
"""Why a sound caption is not among a balanced draw."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which captions of a survey become records.

    Args:
        is_kept: bool ``(captions,)``.
        left_out: How many are not, by the reason.
        repeats: int64 ``(repeats, 2)``, captions whose pictures are the very ones of captions before, and these.
        phrases: All noun phrases of sound captions.
        before: How many sound captions have each of them, int64 ``(phrases,)``.
        after: How many kept ones have, int64 ``(phrases,)``.
    """

    is_kept: NDArray[np.bool_]
    left_out: dict[str, int]
    repeats: NDArray[np.int64]
    phrases: list[str]
    before: NDArray[np.int64]
    after: NDArray[np.int64]


def choose(parts: Sequence[Path], balance: Balance | None) -> Choice:
    """Return what is kept: sound captions, of equal pictures the first, and of these a balanced draw.

    Args:
        parts: Of a survey, in order.
        balance: None to keep them all.
    """
    reasons = pa.chunked_array([_read(part, "reason") for part in parts], pa.string())
    is_kept = pc.equal(reasons, "").to_numpy()
    left_out = Counter(pc.filter(reasons, pc.not_equal(reasons, "")).to_pylist())
    repeats = _find_repeats(parts, is_kept)
    is_kept[repeats[:, 0]] = False
    left_out[REPEATED] = len(repeats)
    phrases, captions, names = _list_phrases(parts, is_kept)
    before = np.bincount(phrases, minlength=len(names))
    if balance is not None:
        is_drawn, has_phrase, has_frequent = (np.zeros_like(is_kept) for _ in range(3))
        is_drawn[draw_captions(phrases, captions, balance)] = True
        has_phrase[captions] = True
        has_frequent[captions[before[phrases] >= balance.min_count]] = True
        left_out[NO_PHRASE] = int((is_kept & ~has_phrase).sum())
        left_out[RARE_PHRASES] = int((has_phrase & ~has_frequent).sum())
        left_out[NOT_DRAWN] = int((has_frequent & ~is_drawn).sum())
        is_kept = is_drawn
    after = np.bincount(phrases[is_kept[captions]], minlength=len(names))
    return Choice(is_kept, dict(left_out), repeats, names, before, after)


def make_records(
    parts: Sequence[Path], is_kept: NDArray[np.bool_], wordings: Sequence[str], seed: int
) -> Iterator[tuple[dict[str, object], Caption]]:
    """Yield the records of the captions that are kept, in the order of the source, each with what it was made of."""
    start = 0
    for part in parts:
        table = pq.read_table(part, columns=["where", "image", "text", "file", "offset", "num_bytes", "id"])
        rows = table.filter(pa.array(is_kept[start : start + len(table)])).to_pylist()
        start += len(table)
        for row in rows:
            caption = Caption(**{**row, "file": Path(row["file"])})
            turns = [
                {"from": "human", "value": ask_about_picture(wordings, seed, caption.image)},
                {"from": "gpt", "value": caption.text},
            ]
            name = caption.id or str(Path(caption.image).with_suffix(""))
            yield {"id": name, "image": caption.image, "conversations": turns}, caption


def _read(part: Path, column: str) -> pa.Array:
    return pq.read_table(part, columns=[column]).column(0).combine_chunks()


def _find_repeats(parts: Sequence[Path], is_sound: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return sound captions whose pictures have the very bytes of one before, each with the first of them."""
    digests = pa.chunked_array([_read(part, "digest") for part in parts], pa.binary()).filter(pa.array(is_sound))
    content = b"".join(b"".join(of_part.to_pylist()) for of_part in digests.chunks)
    halves = np.frombuffer(content, dtype="<u8").reshape(-1, 2)
    # One sort by both halves, which keeps equal ones in their order.
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    captions = np.flatnonzero(is_sound)[order]
    firsts = captions[is_new][np.cumsum(is_new) - 1]
    repeats = np.stack((captions[~is_new], firsts[~is_new]), axis=1)
    return repeats[np.argsort(repeats[:, 0])]


def _list_phrases(
    parts: Sequence[Path], is_kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.int32], list[str]]:
    """Return which kept caption has which phrase, as two columns of numbers, and the phrases by their number."""
    captions: list[NDArray[np.int32]] = []
    phrases: list[pa.Array] = []
    start = 0
    for part in parts:
        lists = _read(part, "phrases")
        kept = np.flatnonzero(is_kept[start : start + len(lists)])
        of_kept = lists.take(pa.array(kept))
        captions.append(np.repeat(start + kept, of_kept.value_lengths().to_numpy()).astype(np.int32))
        phrases.append(of_kept.flatten().dictionary_encode())
        start += len(lists)
    merged = pa.chunked_array(phrases, pa.dictionary(pa.int32(), pa.string())).combine_chunks()
    return merged.indices.to_numpy(), np.concatenate(captions), merged.dictionary.to_pylist()
