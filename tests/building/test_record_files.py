"""Guards files of records: half a file, one that is written over, a name that says nothing of its form."""

import json

import pytest

from llava_pl.building.record_files import check_output, read_records, write_entries
from llava_pl.types import InputError

ENTRIES = [
    {"id": str(n), "conversations": [{"from": "human", "value": "h\u00e9"}, {"from": "gpt", "value": "b"}]}
    for n in range(3)
]


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_lists_and_lines(name, number, tmp_path):
    assert write_entries(tmp_path / name, iter(ENTRIES[:number])) == number
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert text.isascii() == (number == 0)
    if name == "r.json":
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
