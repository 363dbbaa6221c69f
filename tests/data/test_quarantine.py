"""Guards: training leaves out other records than those that were found bad, or more of them, without a word."""

import json

import pytest

from llava_pl.data.quarantine import count_reasons, leave_out, read_quarantine, write_quarantine
from llava_pl.types import BadRecord, InputError, Record, RecordError

BAD = BadRecord(1, "b", "roles", "record 1: field 'from'")
ENTRIES = [Record("a", ()), BAD, Record("c", ()), Record("d", ())]


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
    path = write({"index": 3, "id": "d", "reason": "picture_broken"}, {"index": 1, "id": "b", "reason": "roles"})
    said = []
    assert leave_out(ENTRIES, [BAD], path, said.append) == [1, 3]
    assert said == [f"data.quarantine: {path}: 2 of 4 records are left out, picture_broken 1, roles 1"]


def test_an_empty_quarantine_is_said_too(write):
    said = []
    path = write()
    assert leave_out(ENTRIES[2:], [], path, said.append) == []
    assert said == [f"data.quarantine: {path}: 0 of 2 records are left out"]


def test_a_bad_record_that_is_not_named_is_an_error(write):
    for path in (None, write({"index": 0, "id": "a", "reason": "roles"})):
        said = []
        with pytest.raises(RecordError) as caught:
            leave_out(ENTRIES, [BAD], path, said.append)
        assert caught.value.reason == "roles"
        assert str(caught.value) == (
            "record 1: field 'from'. 1 of 4 records cannot be learned from (roles 1); mend them, or leave them out "
            "with data.quarantine"
        )
        assert said == []


def test_several_bad_records_are_listed(write):
    bad = [BadRecord(place, str(place), "roles" if place else "invalid", f"why {place}") for place in range(1000)]
    said = []
    line = error_of(lambda: leave_out(bad, bad, None, said.append))
    assert line.startswith("why 0. 1,000 of 1,000 records cannot be learned from (roles 999, invalid 1); mend them")
    assert len(said) == 21
    assert said[:2] == ["bad record at index 0, invalid: why 0", "bad record at index 1, roles: why 1"]
    assert said[-1] == "and 980 more; `llava-pl data check` lists them by reason"


def test_without_a_quarantine_nothing_is_said():
    said = []
    assert leave_out(ENTRIES[2:], [], None, said.append) == []
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
    line = error_of(lambda: leave_out(ENTRIES, [BAD], path, lambda line: None))
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
