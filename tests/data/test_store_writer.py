"""Guards against a wrong entry that stops a build or goes in, and against numbers that belong to another record."""

import json

import numpy as np
import pyarrow as pa
import pytest

from llava_pl.data import store_writer
from llava_pl.data.store_writer import write_records

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]


def entry(name: object, **fields: object) -> dict[str, object]:
    return {"id": name, "image": "a.png", "conversations": TURNS} | fields


def test_columns_and_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "_BATCH_RECORDS", 2)
    entries = [entry("a"), entry(2, image=None, conversations=TURNS[1:]), {"id": 3}, entry("d")]
    assert write_records(entries, tmp_path, where="x.json") == 3
    table = pa.ipc.open_file(tmp_path / "records.arrow").read_all()
    assert [len(chunk) for chunk in table["id"].chunks] == [2, 1]
    assert table.to_pydict() == {
        "id": ["a", "2", "d"],
        "images": [["a.png"], [], ["a.png"]],
        "roles": [["human", "gpt"], ["gpt"], ["human", "gpt"]],
        "texts": [["<image>\nWhat?", "A dog."], ["A dog."], ["<image>\nWhat?", "A dog."]],
    }
    assert np.load(tmp_path / "source_index.npy").tolist() == [0, 1, 3]
    assert json.loads((tmp_path / "bad.json").read_text()) == [
        {
            "index": 2,
            "id": "3",
            "reason": "invalid",
            "images": [],
            "message": "x.json: record 2 (id 3): field 'conversations': expected a non-empty list, found nothing",
        }
    ]


def test_batches_are_cut_where_texts_are_long(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "_BATCH_CHARACTERS", 30)
    write_records([entry(index) for index in range(5)], tmp_path, where="x.json")
    table = pa.ipc.open_file(tmp_path / "records.arrow").read_all()
    assert [len(chunk) for chunk in table["id"].chunks] == [2, 2, 1]


@pytest.mark.parametrize("entries", [[], ["a", None, 5]], ids=["none", "all_bad"])
def test_no_good_record(tmp_path, entries):
    assert write_records(entries, tmp_path, where="x.json") == 0
    assert pa.ipc.open_file(tmp_path / "records.arrow").read_all().num_rows == 0
    bad = json.loads((tmp_path / "bad.json").read_text())
    assert [entry["reason"] for entry in bad] == ["invalid"] * len(entries)
