"""Guards: training leaves out other records than those that were found bad, or more of them, without a word."""

import json

import pytest

from llava_pl.data.quarantine import count_reasons, leave_out, read_quarantine, write_quarantine
from llava_pl.types import BadRecord, InputError, Record, RecordError

RECORDS = [Record("a", ()), BadRecord(1, "b", "roles", "record 1: field 'from'"), Record("c", ()), Record("d", ())]


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def write(tmp_path):
    def write(*entries):
        path = tmp_path / "bad.json"
        path.write_text(json.dumps(list(entries)))
        return path

    return write


def test_what_is_written_is_read_again(tmp_path):
    bad = [BadRecord(1, "b", "roles", "why", ("a.png",)), BadRecord(7, "\ud83d", "invalid", "a \u2581")]
    write_quarantine(tmp_path / "bad.json", bad)
    assert (tmp_path / "bad.json").read_text().isascii()
    assert json.loads((tmp_path / "bad.json").read_text())[0] == {
        "index": 1, "id": "b", "reason": "roles", "message": "why",
    }  # fmt: skip
    assert read_quarantine(tmp_path / "bad.json") == {
        1: BadRecord(1, "b", "roles", "why"),
        7: BadRecord(7, "\ud83d", "invalid", "a \u2581"),
    }


def test_exactly_the_named_records_are_left_out_and_counted(write):
    path = write({"index": 1, "id": "b", "reason": "roles"}, {"index": 3, "id": "d", "reason": "picture_broken"})
    said = []
    assert leave_out(RECORDS, path, said.append) == [RECORDS[0], RECORDS[2]]
    assert said == [f"data.quarantine: {path}: 2 of 4 records are left out, roles 1, picture_broken 1"]


def test_an_empty_quarantine_is_said_too(write):
    said = []
    path = write()
    assert leave_out(RECORDS[2:], path, said.append) == RECORDS[2:]
    assert said == [f"data.quarantine: {path}: 0 of 2 records are left out"]


def test_a_bad_record_that_is_not_named_is_an_error(write):
    for path in (None, write({"index": 0, "id": "a", "reason": "roles"})):
        with pytest.raises(RecordError, match="record 1: field 'from'") as caught:
            leave_out(RECORDS, path, lambda line: None)
        assert caught.value.reason == "roles"


def test_without_a_quarantine_nothing_is_said():
    said = []
    assert leave_out(RECORDS[2:], None, said.append) == RECORDS[2:]
    assert said == []


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"index": 0, "id": "b", "reason": "roles"}, "expected record 'b' at index 0, found record 'a'; "),
        ({"index": 9, "id": "b", "reason": "roles"}, "expected record 'b' at index 9, found 4 records; "),
        ({"index": -1, "id": "d", "reason": "roles"}, "expected record 'd' at index -1, found 4 records; "),
    ],
)
def test_a_quarantine_of_other_data_is_refused(write, entry, found):
    path = write(entry)
    line = error_of(lambda: leave_out(RECORDS, path, lambda line: None))
    assert line.startswith(f"data.quarantine: {path}: {found}")
    assert "llava-pl data check" in line


@pytest.mark.parametrize(
    "entry", [3, {}, {"index": "1", "id": "b", "reason": "r"}, {"index": True, "id": "b", "reason": "r"}, {"index": 1}]
)
def test_malformed_entry_is_named(write, entry):
    path = write({"index": 1, "id": "b", "reason": "roles"}, entry)
    assert error_of(lambda: read_quarantine(path)).startswith(f"{path}: entry 1: expected an object with index")


def test_an_index_stands_there_once(write):
    entry = {"index": 1, "id": "b", "reason": "roles"}
    path = write(entry, entry)
    assert "each one once" in error_of(lambda: read_quarantine(path))


def test_file_is_not_a_list(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    assert "expected the JSON list" in error_of(lambda: read_quarantine(tmp_path / "bad.json"))


def test_place_that_cannot_be_written(tmp_path):
    assert "cannot be written" in error_of(lambda: write_quarantine(tmp_path / "none" / "bad.json", []))


def test_reasons_are_counted_the_most_frequent_first():
    bad = [BadRecord(index, "", reason, "") for index, reason in enumerate(["roles", "invalid", "invalid"])]
    assert count_reasons(bad) == {"invalid": 2, "roles": 1}
