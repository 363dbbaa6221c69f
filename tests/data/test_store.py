"""Guards against a record that the store returns otherwise than the file has it, and a store that is not what it seems.

A store must give exactly what `read_records` gives, in every process, and refuse files of another version, of other
content, or with a part missing.
"""

import json
import multiprocessing
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_pl.data import store_writer
from llava_pl.data.records import read_records
from llava_pl.data.store import STORE_VERSION, Manifest, RecordStore
from llava_pl.data.store_cache import open_store
from llava_pl.types import BadRecord, InputError, Record, Turn

ASKED = {"from": "human", "value": "<image>\nWhat?"}
ANSWERED = {"from": "gpt", "value": "A dog."}
ENTRIES = [
    {"id": 7, "image": "a.png", "conversations": [ASKED, ANSWERED]},
    {"id": "caf\u00e9", "image": ["b.png", "a.png"], "conversations": [ASKED, ANSWERED, ASKED]},
    {"id": "c", "conversations": [{"from": "gpt", "value": "NUL \x00 \U0001f600"}]},
]
RECORDS = [
    Record("7", (Turn("human", "<image>\nWhat?"), Turn("gpt", "A dog.")), ("a.png",)),
    Record(
        "caf\u00e9",
        (Turn("human", "<image>\nWhat?"), Turn("gpt", "A dog."), Turn("human", "<image>\nWhat?")),
        ("b.png", "a.png"),
    ),
    Record("c", (Turn("gpt", "NUL \x00 \U0001f600"),), ()),
]


def write_source(folder: Path, entries: list[object]) -> Path:
    path = folder / "records.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def store(tmp_path) -> RecordStore:
    return open_store(write_source(tmp_path, ENTRIES), tmp_path / "cache")


def message(path: Path, content: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        RecordStore(path, content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_records_and_numbers(store):
    assert list(store) == RECORDS
    assert len(store) == 3
    assert store.source_index.tolist() == [0, 1, 2]
    assert store.bad == []


def test_indices_are_those_of_a_sequence(store):
    assert store[-1] == store[2] == store[np.int64(2)] == RECORDS[2]
    assert store[1:] == RECORDS[1:]
    assert store[::-1] == RECORDS[::-1]
    for index in (3, -4):
        with pytest.raises(IndexError):
            store[index]


def test_numbers_are_known_without_the_texts(store):
    """A sampler needs them for each record: they are arrays of their own files."""
    assert isinstance(store.source_index, np.memmap)


def test_lone_surrogates_and_wrong_records_are_listed_with_their_place(tmp_path):
    surrogate = {"id": "s", "conversations": [{"from": "gpt", "value": "a\ud83d"}]}
    slots = {"id": "t", "image": "a.png", "conversations": [ANSWERED]}
    path = write_source(tmp_path, [surrogate, ENTRIES[0], slots, ENTRIES[2], ENTRIES[2] | {"id": "\udc00"}])
    store = open_store(path, tmp_path / "cache")
    assert list(store) == [RECORDS[0], RECORDS[2]]
    assert store.source_index.tolist() == [1, 3]
    assert store.bad == [
        BadRecord(
            0,
            "s",
            "invalid",
            f"{path}: record 0 (id 's'): turn 0: field 'value': holds a lone surrogate, which no tokenizer can read; "
            "repair the text",
        ),
        BadRecord(
            2,
            "t",
            "image_slots",
            f"{path}: record 2 (id 't'): 0 '<image>' marks for 1 images; expected one mark for each",
            ("a.png",),
        ),
        BadRecord(
            4,
            "\udc00",
            "invalid",
            f"{path}: record 4 (id '\\udc00'): field 'id': holds a lone surrogate; repair the text",
        ),
    ]


@st.composite
def entries(draw):
    """Any valid entry: ids of both types, no image, one or several, marks in human turns alone."""
    text = st.text(max_size=12).map(lambda text: text.replace("<image>", ""))
    images = draw(st.none() | st.text(min_size=1) | st.lists(st.text(min_size=1), max_size=3))
    turn = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": text})
    turns = draw(st.lists(turn, min_size=1, max_size=4))
    if images:
        marks = "<image>" * (1 if isinstance(images, str) else len(images))
        turns.insert(draw(st.integers(0, len(turns))), {"from": "human", "value": marks + draw(text)})
    return {"id": draw(st.integers() | st.text()), "image": images, "conversations": turns}


@settings(max_examples=40, deadline=None)  # a build waits for the disk
@given(st.lists(entries(), max_size=7), st.booleans())
def test_any_valid_entries_are_the_records_of_the_file(found, as_lines):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "_BATCH_RECORDS", 3)
        path = write_source(Path(folder), found)
        expected = read_records(path)
        if as_lines:
            path = path.with_suffix(".jsonl")
            path.write_text("".join(json.dumps(entry) + "\n" for entry in found))
        store = open_store(path, Path(folder) / "cache")
        assert list(store) == expected
        assert store.bad == []


def test_pickle_holds_the_path_alone(store):
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    assert list(pickle.loads(pickled)) == RECORDS


def test_started_process_maps_the_same_file(store):
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.map(store.__class__.__getitem__.__get__(store), [2, 0]) == [RECORDS[2], RECORDS[0]]


def test_store_of_other_content_is_refused(store):
    assert message(store.path, "0" * 64) == (
        f"{store.path}: expected a record store, version {STORE_VERSION} with content 00000000, "
        f"found content {store.content[:8]}; open its source again"
    )


def test_no_store(tmp_path):
    wanted = f"expected a record store, version {STORE_VERSION}"
    expected = f"{tmp_path}: {wanted}, found nothing of the kind; open its source again"
    assert message(tmp_path) == expected
    for text in ("", "[]", "{}", '{"version": 1, "more": 2}'):
        (tmp_path / "manifest.json").write_text(text)
        assert message(tmp_path) == expected


def test_manifest_of_another_version_is_none(store):
    text = (store.path / "manifest.json").read_text()
    assert Manifest.read(store.path).num_records == 3
    (store.path / "manifest.json").write_text(text.replace(f'"version": {STORE_VERSION}', '"version": 0'))
    assert Manifest.read(store.path) is None


@pytest.mark.parametrize("name", ["records.arrow", "source_index.npy"])
def test_damaged_store(store, name):
    path = store.path / name
    path.write_bytes(path.read_bytes()[:20])
    assert message(store.path).startswith(f"{store.path}: the store is damaged (")
    path.unlink()
    assert message(store.path).endswith("); delete the folder, it is built anew")


def test_arrays_and_texts_of_different_builds(store):
    np.save(store.path / "source_index.npy", np.arange(5))
    assert message(store.path) == (
        f"{store.path}: the store is damaged (expected 3 records, found 3 with 5 numbers); delete the folder, it is "
        "built anew"
    )


def test_entries_are_those_of_the_source_bad_ones_included(tmp_path):
    good, wrong = {"id": "a", "conversations": [ANSWERED]}, {"id": "w"}
    (tmp_path / "records.json").write_text(json.dumps([wrong, good, good | {"id": "b"}, wrong, 7, good | {"id": "c"}]))
    store = open_store(tmp_path / "records.json", tmp_path / "cache")
    assert (len(store), store.num_entries) == (3, 6)
    entries = [store.entry(place) for place in range(6)]
    assert [entry.id for entry in entries] == ["w", "a", "b", "w", "", "c"]
    assert [entry.index for entry in entries if isinstance(entry, BadRecord)] == [0, 3, 4]
    for place in (-1, 6):
        with pytest.raises(IndexError):
            store.entry(place)
