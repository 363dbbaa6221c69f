"""Guards against token counts of another tokenizer, template or record, and against counting twice."""

import json
import os

import numpy as np
import pytest

from llava_pl.data import length_cache
from llava_pl.data.length_cache import EncodedLengths
from llava_pl.data.store import RecordStore
from llava_pl.data.store_cache import open_store
from llava_pl.types import InputError, Record


@pytest.fixture
def store(tmp_path) -> RecordStore:
    turns = [{"from": "human", "value": "12"}, {"from": "gpt", "value": "1234"}]
    entries = [{"id": index, "conversations": turns[: 1 + index % 2]} for index in range(5)]
    (tmp_path / "records.json").write_text(json.dumps(entries))
    return open_store(tmp_path / "records.json", tmp_path / "cache")


def count_characters(record: Record) -> tuple[int, int]:
    return sum(len(turn.text) for turn in record.turns), sum(len(t.text) for t in record.turns if t.role == "gpt")


def refuse(record: Record) -> tuple[int, int]:
    raise InputError(f"record {record.id!r} is counted")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_counts_are_in_order_and_made_once(store, monkeypatch, num_workers):
    monkeypatch.setattr(length_cache, "_RECORDS_AT_ONCE", 2)
    for count in (count_characters, refuse):
        found = EncodedLengths.of(store, count, key="a", num_workers=num_workers)
        assert found.num_tokens.tolist() == [2, 6, 2, 6, 2]
        assert found.num_supervised.tolist() == [0, 4, 0, 4, 0]
        assert found.num_tokens.dtype == found.num_supervised.dtype == np.int32


def test_another_key_is_counted_anew(store):
    EncodedLengths.of(store, count_characters, key="a")
    with pytest.raises(InputError, match="record '0' is counted"):
        EncodedLengths.of(store, refuse, key="b")
    twice = EncodedLengths.of(store, lambda record: (1, 1), key="b")
    assert twice.num_tokens.tolist() == [1, 1, 1, 1, 1]
    assert EncodedLengths.of(store, refuse, key="a").num_tokens.tolist() == [2, 6, 2, 6, 2]


def test_half_written_counts_are_made_again(store):
    EncodedLengths.of(store, count_characters, key="a")
    (path,) = store.path.glob("lengths-*.npy")
    path.write_bytes(path.read_bytes()[:50])
    assert EncodedLengths.of(store, count_characters, key="a").num_tokens.tolist() == [2, 6, 2, 6, 2]


def test_full_disk(store, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError) as caught:
        EncodedLengths.of(store, count_characters, key="a")
    assert str(caught.value) == (
        f"{store.path}: cannot store the token counts (No space left on device); make room for about 0 MB, or set "
        "LLAVA_PL_CACHE to another folder"
    )
    assert list(store.path.glob("*lengths*")) == []


def test_summary(store):
    found = EncodedLengths.of(store, count_characters, key="a")
    assert found.summary() == "5 records, 18 tokens: mean 3.6, p50 2, p95 6, supervised 44.4 %"


def test_no_records(tmp_path):
    (tmp_path / "records.json").write_text("[]")
    store = open_store(tmp_path / "records.json", tmp_path / "cache")
    found = EncodedLengths.of(store, refuse, key="a")
    assert found.num_tokens.tolist() == found.num_supervised.tolist() == []
    assert found.summary() == "0 records, 0 tokens"
