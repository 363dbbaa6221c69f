"""Guards against lengths, mistakes or tokens of another tokenizer, template or record, and against encoding twice."""

import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava_pl.data import encoded as module
from llava_pl.data.anyres import Tiling, default_pinpoints
from llava_pl.data.encoded import EncodedRecords, TokenCache
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.store import RecordStore
from llava_pl.data.store_cache import open_store
from llava_pl.types import InputError

ANSWERS = ["Hi", "A dog", "", "No"]
"""The third record teaches nothing."""


@pytest.fixture
def store(tmp_path) -> RecordStore:
    entries = [
        {
            "id": index,
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": answer}],
        }
        for index, answer in enumerate(ANSWERS)
    ]
    (tmp_path / "records.json").write_text(json.dumps(entries))
    return open_store(tmp_path / "records.json", tmp_path / "cache")


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Where each stretch of records that is encoded begins."""
    starts: list[int] = []
    encode = module._encode_range

    def called(store, encoder, has_tokens, start):
        starts.append(start)
        return encode(store, encoder, has_tokens, start)

    monkeypatch.setattr(module, "_encode_range", called)
    return starts


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("has_tokens", [False, True])
def test_counts_are_those_of_the_samples(store, encoder, monkeypatch, num_workers, has_tokens):
    monkeypatch.setattr(module, "_RECORDS_AT_ONCE", 1)
    for _ in range(2):
        found = EncodedRecords.of(store, encoder, has_tokens=has_tokens, num_workers=num_workers)
        # BOS, four image tokens, the answer and a line break.
        assert found.num_tokens.tolist() == [8, 11, 1, 8]
        assert found.num_supervised.tolist() == [3, 6, 0, 3]
        assert found.num_words.tolist() == [2, 3, 1, 2]
        assert found.bad == {
            2: ("empty_answer", "turn 1: the answer is empty; nothing can be learned from it, remove the record")
        }
        assert found.num_tokens.dtype == found.num_supervised.dtype == found.num_words.dtype == np.int32
        assert (found.tokens is not None) == has_tokens


def test_tokens_are_those_of_the_encoder(store, encoder):
    tokens = EncodedRecords.of(store, encoder, has_tokens=True).tokens
    for kept in (tokens, pickle.loads(pickle.dumps(tokens))):
        assert isinstance(kept, TokenCache)
        assert len(kept) == 4
        for index in (0, 1, 3, -1):
            expected = encoder.tokenize(store[index])
            assert torch.equal(kept[index].input_ids, expected.input_ids)
            assert torch.equal(kept[index].labels, expected.labels)
            assert kept[index].input_ids.dtype == kept[index].labels.dtype == torch.int64
        assert kept[2].input_ids.tolist() == []
        with pytest.raises(IndexError):
            kept[4]
    kept[0].input_ids[0] = 77  # what is handed out is a copy
    assert kept[0].input_ids[0] == 1


def test_nothing_is_encoded_twice(store, encoder, calls):
    EncodedRecords.of(store, encoder)
    EncodedRecords.of(open_store(store.path.parent.parent / "records.json", store.path.parent), encoder)
    assert calls == [0]


@pytest.mark.parametrize(
    "other",
    [
        {"template": "vicuna_v1"},
        {"max_length": 6},
        {"num_image_tokens": 9},
        {"on_too_long": "drop"},
        {"image_start_end": True},
    ],
)
def test_what_samples_depend_on_is_encoded_anew(store, encoder, calls, other):
    EncodedRecords.of(store, encoder)
    if "image_start_end" in other:
        with pytest.raises(InputError, match="the tokenizer does not know"):
            EncodedRecords.of(store, replace(encoder, **other))
    else:
        EncodedRecords.of(store, replace(encoder, **other))
    EncodedRecords.of(store, encoder)
    assert calls == [0, 0]


def test_another_tokenizer_is_another_one(store, encoder, calls, tiny_parts):
    EncodedRecords.of(store, encoder)
    tokenizer = load_tokenizer(tiny_parts / "decoder")
    tokenizer.add_tokens(["dog"])
    found = EncodedRecords.of(store, replace(encoder, tokenizer=tokenizer))
    assert found.num_tokens.tolist() == [8, 9, 1, 8]
    assert calls == [0, 0]


def test_lengths_follow_what_is_cut_and_dropped(store, encoder):
    cut = EncodedRecords.of(store, replace(encoder, max_length=8))
    assert (cut.num_tokens.tolist(), cut.num_supervised.tolist()) == ([8, 8, 1, 8], [3, 3, 0, 3])
    dropped = EncodedRecords.of(store, replace(encoder, max_length=8, on_too_long="drop"))
    assert (dropped.num_tokens.tolist(), dropped.num_supervised.tolist()) == ([8, 1, 1, 8], [3, 0, 0, 3])
    assert list(dropped.bad) == [2]
    refused = EncodedRecords.of(store, replace(encoder, max_length=8, on_too_long="error"))
    assert {index: reason for index, (reason, _) in refused.bad.items()} == {1: "too_long", 2: "empty_answer"}
    assert refused.bad[1][1].startswith("max_length: expected at most 8 positions, found 11; ")


def test_what_supervises_nothing_is_bad(store, encoder):
    found = EncodedRecords.of(store, replace(encoder, max_length=5))
    assert found.bad[0] == ("nothing_supervised", "nothing is supervised, after 3 tokens were cut off")
    assert found.num_tokens.tolist() == [1, 1, 1, 1]


def test_process_killed_while_encoding_leaves_nothing_that_is_opened(store, encoder, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        EncodedRecords.of(store, encoder)
    monkeypatch.undo()
    assert [path.name for path in store.path.glob("*encoded*") if path.is_dir()] == []
    assert EncodedRecords.of(store, encoder).num_tokens.tolist() == [8, 11, 1, 8]


@pytest.mark.parametrize("name", ["counts.npy", "bad.json", "ends.npy", "ids.bin", "is_supervised.bin"])
@pytest.mark.parametrize("harm", ["cut", "gone", "empty"])
def test_what_was_harmed_is_made_again(store, encoder, name, harm):
    EncodedRecords.of(store, encoder, has_tokens=True)
    (path,) = store.path.glob(f"encoded-*/{name}")
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size - 4 if harm == "cut" else 0])
    found = EncodedRecords.of(store, encoder, has_tokens=True)
    assert found.num_tokens.tolist() == [8, 11, 1, 8]
    assert torch.equal(found.tokens[3].input_ids, encoder.tokenize(store[3]).input_ids)


def test_what_a_killed_process_left_is_removed(store, encoder):
    EncodedRecords.of(store, encoder)
    (folder,) = [path for path in store.path.glob("encoded-*") if path.is_dir()]
    left = folder.with_name(f".{folder.name}.building")
    left.mkdir()
    (left / "ids.bin").write_bytes(b"torn")
    (folder / "counts.npy").unlink()
    assert EncodedRecords.of(store, encoder).num_tokens.tolist() == [8, 11, 1, 8]
    assert not left.exists()


WORKER = """
import multiprocessing, os, signal, sys, time
from llava_pl.data.encoded import _start_worker
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(1, initializer=_start_worker, initargs=(os.getpid(),))
print(pool.submit(os.getpid).result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_killed_process():
    result = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=False)
    worker = Path(f"/proc/{int(result.stdout)}")
    deadline = time.monotonic() + 30
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_of_two_processes_one_encodes_and_the_other_waits(store, encoder, calls):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: EncodedRecords.of(store, encoder), range(2)))
    assert [one.num_tokens.tolist() for one in found] == [[8, 11, 1, 8]] * 2
    assert calls == [0]


@pytest.mark.parametrize(("has_tokens", "also"), [(False, ""), (True, " or switch data.cache_tokens off")])
def test_full_disk(store, encoder, monkeypatch, has_tokens, also):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError) as caught:
        EncodedRecords.of(store, encoder, has_tokens=has_tokens)
    assert str(caught.value) == (
        f"{store.path}: cannot store what the records are encoded to (No space left on device); make room{also}, or "
        "set data.cache_dir or LLAVA_PL_CACHE to another folder"
    )
    assert [path.name for path in store.path.glob("*encoded*") if path.is_dir()] == []


@pytest.mark.parametrize("has_tokens", [False, True])
def test_no_records(tmp_path, encoder, has_tokens):
    (tmp_path / "records.json").write_text("[]")
    store = open_store(tmp_path / "records.json", tmp_path / "cache")
    found = EncodedRecords.of(store, encoder, has_tokens=has_tokens)
    assert found.num_tokens.tolist() == found.num_supervised.tolist() == []
    assert not has_tokens or list(found.tokens) == []


def test_tiled_pictures_are_counted_and_one_that_is_away_is_no_mistake(store, encoder, tmp_path):
    tiled = replace(encoder, tiling=Tiling(16, 4, default_pinpoints(16)))
    away = EncodedRecords.of(store, tiled)
    # As long as with whole pictures, and not remembered as bad: on a disk in a network it may be back in a moment.
    assert away.num_tokens.tolist() == EncodedRecords.of(store, encoder).num_tokens.tolist() == [8, 11, 1, 8]
    assert list(away.bad) == [2]
    Image.new("RGB", (32, 16)).save(tmp_path / "a.png")
    seen = EncodedRecords.of(store, replace(tiled, respect_exif=False))
    assert seen.num_tokens.tolist() == [8 + 10, 11 + 10, 1, 8 + 10]
    assert seen.num_tokens[1] == len(tiled.encode_record(store[1]).input_ids)


def test_counts_of_tiled_pictures_depend_on_how_they_are_read(encoder, tmp_path):
    tiled = replace(encoder, tiling=Tiling(16, 4, default_pinpoints(16)))
    changes = {"respect_exif": False, "image_folder": tmp_path / "other", "tiling": Tiling(16, 4, [(32, 16)])}
    keys = {replace(tiled, **{name: value}).fingerprint for name, value in changes.items()}
    assert len(keys | {tiled.fingerprint, encoder.fingerprint}) == 5
    assert replace(encoder, respect_exif=False).fingerprint == encoder.fingerprint
