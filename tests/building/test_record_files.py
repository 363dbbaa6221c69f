"""Guards files of records: half a file, one that is written over, a name that says nothing of its form."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_pl.building.record_files import (
    check_output,
    convert_records,
    read_forms,
    read_records,
    write_entries,
    write_sides,
)
from llava_pl.types import InputError, Record, RecordError, Turn

ENTRIES = [
    {"id": str(n), "conversations": [{"from": "human", "value": "h\u00e9"}, {"from": "gpt", "value": "b"}]}
    for n in range(3)
]


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "R.JSON", "R.JSONL"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_lists_and_lines(name, number, tmp_path):
    assert write_entries(tmp_path / name, iter(ENTRIES[:number])) == number
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert text.isascii() == (number == 0)
    if name.endswith(("n", "N")):
        assert json.loads(text) == ENTRIES[:number]
    assert [record.id for record in read_records(tmp_path / name)] == [str(n) for n in range(number)]


def test_what_breaks_off_leaves_nothing(tmp_path):
    def entries():
        yield ENTRIES[0]
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        write_entries(tmp_path / "r.json", entries())
    assert list(tmp_path.iterdir()) == []


def test_records_without_a_name_have_their_place(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([{"conversations": ENTRIES[0]["conversations"]}]))
    assert [record.id for record in read_records(tmp_path / "r.json")] == ["r-0"]


def test_all_columns_are_read(tmp_path):
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "b"}]
    table = pa.table({"id": ["7"], "images": [["a.png"]], "conversations": [turns], "system": ["Be brief."]})
    pq.write_table(table, tmp_path / "r.parquet")
    where = f"{tmp_path / 'r.parquet'}: record 0"
    assert list(read_forms(tmp_path / "r.parquet")) == [(where, "r-0", table.to_pylist()[0])]
    (record,) = read_records(tmp_path / "r.parquet", "sharegpt", is_strict=False)
    assert record.images == ("a.png",)
    with pytest.raises(RecordError, match="record 0: field 'system'"):
        list(read_records(tmp_path / "r.parquet", "sharegpt"))
    with pytest.raises(RecordError, match="record 0: field 'images': expected 'image'"):
        list(read_records(tmp_path / "r.parquet"))


def test_messages_as_parquet(tmp_path):
    parts = [{"type": "image", "image": {"path": "a.png", "bytes": None}}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": [parts[1]]}]
    pq.write_table(pa.table({"messages": [messages]}), tmp_path / "r.parquet")
    turns = (Turn("human", "<image>\nWhat?"), Turn("gpt", "What?"))
    assert list(read_records(tmp_path / "r.parquet", "messages")) == [Record("r-0", turns, ("a.png",))]


def test_tables_are_no_records(tmp_path):
    with pytest.raises(InputError, match="found a table by its name; `llava-pl data convert"):
        list(read_records(tmp_path / "r.CSV"))


def test_what_a_form_cannot_say_has_its_place():
    records = [Record("6", (Turn("human", "a"),)), Record("7", (Turn("human", "<image>"),))]
    written = convert_records(records, "messages", Path("r.json"))
    assert next(written)["id"] == "6"
    with pytest.raises(RecordError, match=r"^r\.json: record 1 \(id '7'\): expected a picture for each mark"):
        next(written)


def test_values_that_json_lacks(tmp_path):
    entry = {"id": "\ud800", "day": datetime(2026, 1, 2), "price": Decimal("1.50")}
    assert write_entries(tmp_path / "r.json", [entry]) == 1
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"id": "\ud800", "day": "2026-01-02 00:00:00", "price": "1.50"}
    ]
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value, message in ((b"1", "expected what JSON can hold, found bytes"), (deep, "recursion")):
        with pytest.raises(InputError, match=rf"s\.json: record 1 of it \(id 'a'\): .*{message}"):
            write_entries(tmp_path / "s.json", [entry, {"id": "a", "x": value}])
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_sides_are_named_together(tmp_path):
    one, two = tmp_path / "a.json", tmp_path / "b.jsonl"

    def entries():
        yield ENTRIES[0]
        assert not one.exists()
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        write_sides({one: ENTRIES[:1], two: entries()})
    assert list(tmp_path.iterdir()) == []
    assert write_sides({one: ENTRIES[:1], two: ENTRIES[1:]}) == [1, 2]
    expected = [path.read_bytes() for path in (one, two)]
    two.unlink()
    assert write_sides({one: ENTRIES[:1], two: ENTRIES[1:]}) == [1, 2]
    assert [path.read_bytes() for path in (one, two)] == expected
    two.unlink()
    with pytest.raises(InputError, match=r"a\.json: expected a new file, found another one; choose another name"):
        write_sides({one: ENTRIES, two: []})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r.txt", "expected a name that ends in .json (a list) or .jsonl (lines)"),
        ("there.json", "expected a new file, found one; choose another name"),
        ("none/r.json", "expected a file in a folder that exists, found no folder"),
    ],
)
def test_where_nothing_can_be_written(name, message, tmp_path):
    (tmp_path / "there.json").write_text("[]")
    with pytest.raises(InputError) as caught:
        check_output(tmp_path / name, "DST")
    assert str(caught.value).startswith(f"DST: {tmp_path / name}: {message}")


def test_tables_are_called_so(tmp_path):
    check_output(tmp_path / "r.csv", "DST", is_table=True)
    with pytest.raises(InputError, match=r"expected a name that ends in \.csv$"):
        check_output(tmp_path / "r.json", "DST", is_table=True)
