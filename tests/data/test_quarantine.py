"""Guards: a run leaves out other records than those that were found bad, or more of them, without a word."""

import json

import pytest

from llava_pl.data.quarantine import Quarantine, count_reasons, refuse, write_quarantine
from llava_pl.types import BadRecord, InputError, Record, RecordError

BAD = BadRecord(1, "b", "roles", "record 1: field 'from'", source="talk")
ENTRIES = [Record("a", ()), BAD, Record("c", ()), Record("d", ())]


def entry(index, name, reason="roles", source="talk"):
    return {"source": source, "index": index, "id": name, "reason": reason}


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def read(tmp_path):
    def read(*entries):
        (tmp_path / "bad.json").write_text(json.dumps(list(entries)))
        return Quarantine.read(tmp_path / "bad.json")

    return read


def test_what_is_written_is_read_again(tmp_path):
    bad = [
        BadRecord(1, "b", "roles", "why", ("a.png",), "talk"),
        BadRecord(7, "\ud83d", "invalid", "a \u2581", source="talk"),
        BadRecord(1, "x", "roles", "why", source="data.val_records"),
    ]
    write_quarantine(tmp_path / "bad.json", bad)
    assert (tmp_path / "bad.json").read_text().isascii()
    assert json.loads((tmp_path / "bad.json").read_text())[0] == {
        "source": "talk", "index": 1, "id": "b", "reason": "roles", "message": "why",
    }  # fmt: skip
    assert Quarantine.read(tmp_path / "bad.json").sources == {
        "talk": {1: BadRecord(1, "b", "roles", "why", source="talk"), 7: bad[1]},
        "data.val_records": {1: bad[2]},
    }


def test_exactly_the_named_records_of_a_source_are_left_out_and_counted(read):
    quarantine = read(entry(3, "d", "picture_broken"), entry(1, "b"), entry(0, "a", source="other"))
    said = []
    assert sorted(quarantine.leave_out("talk", ENTRIES, said.append)) == [1, 3]
    assert said == [f"data.quarantine: {quarantine.path}: talk: 2 of 4 records are left out, picture_broken 1, roles 1"]


def test_a_source_that_is_not_named_is_said_too(read):
    said = []
    quarantine = read()
    assert quarantine.leave_out("talk", ENTRIES[2:], said.append) == {}
    assert said == [f"data.quarantine: {quarantine.path}: talk: 0 of 2 records are left out"]


def test_entries_of_sources_that_a_run_does_not_have_are_said(read):
    quarantine = read(entry(1, "b"), entry(1, "x", source="chart"), entry(2, "y", source="chart"))
    said = []
    quarantine.check_sources(["caption", "talk"], said.append)
    assert said == [f"data.quarantine: {quarantine.path}: 2 entries are of sources that this run does not have: chart"]
    quarantine.check_sources(["chart", "talk"], lambda line: pytest.fail(line))
    read().check_sources(["talk"], lambda line: pytest.fail(line))


def test_a_quarantine_of_other_sources_alone_is_refused(read):
    quarantine = read(entry(1, "b"), entry(1, "x", source="chart"))
    assert error_of(lambda: quarantine.check_sources(["a", "b"], print)) == (
        f"data.quarantine: {quarantine.path}: expected entries of a, b, found those of talk, chart alone; run "
        "`llava-pl data check` on this data, or give its sources the names that they had"
    )


def test_a_bad_record_that_is_not_named_is_an_error():
    said = []
    with pytest.raises(RecordError) as caught:
        refuse([BAD], 4, said.append)
    assert caught.value.reason == "roles"
    assert str(caught.value) == (
        "talk: record 1: field 'from'. 1 of 4 records cannot be learned from (roles 1); mend them, or leave them out "
        "with data.quarantine"
    )
    assert said == []


def test_several_bad_records_are_listed():
    bad = [
        BadRecord(place, str(place), "roles" if place else "invalid", f"why {place}", source="talk")
        for place in range(1000)
    ]
    said = []
    line = error_of(lambda: refuse(bad, 1000, said.append))
    assert line.startswith("talk: why 0. 1,000 of 1,000 records cannot be learned from (roles 999, invalid 1); mend")
    assert len(said) == 21
    assert said[:2] == ["bad record talk 0, invalid: why 0", "bad record talk 1, roles: why 1"]
    assert said[-1] == "and 980 more; `llava-pl data check` lists them by reason"


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (entry(0, "b"), "expected record 'b' at index 0, found record 'a'; "),
        (entry(9, "b"), "expected record 'b' at index 9, found 4 records; "),
        (entry(-1, "d"), "expected record 'd' at index -1, found 4 records; "),
    ],
)
def test_a_source_that_is_not_the_one_that_was_checked_is_refused(read, entry, found):
    quarantine = read(entry)
    line = error_of(lambda: quarantine.leave_out("talk", ENTRIES))
    assert line.startswith(f"data.quarantine: {quarantine.path}: talk: {found}")
    assert "llava-pl data check" in line


@pytest.mark.parametrize(
    "wrong",
    [3, {}, entry("1", "b"), entry(True, "b"), entry(1, None), entry(1, "b", None), entry(1, "b", source=4)],
)
def test_malformed_entry_is_named(read, tmp_path, wrong):
    path = tmp_path / "bad.json"
    assert error_of(lambda: read(entry(1, "b"), wrong)).startswith(f"{path}: entry 1: expected an object with source")


def test_a_file_that_counts_through_all_sources_is_refused(read, tmp_path):
    assert error_of(lambda: read({"index": 1, "id": "b", "reason": "roles"})) == (
        f"{tmp_path / 'bad.json'}: entry 0: expected a source beside the index, found none: an older version counted "
        "through all sources; write the file again with `llava-pl data check`"
    )


def test_a_place_stands_there_once(read):
    read(entry(1, "b"), entry(1, "b", source="other"))
    line = error_of(lambda: read(entry(1, "b"), entry(1, "b")))
    assert "entry 1: expected each place once, found talk 1 again" in line


def test_file_is_not_a_list(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    assert "expected the JSON list" in error_of(lambda: Quarantine.read(tmp_path / "bad.json"))


def test_place_that_cannot_be_written(tmp_path):
    assert "cannot be written" in error_of(lambda: write_quarantine(tmp_path / "none" / "bad.json", []))


def test_reasons_are_counted_the_most_frequent_first():
    bad = [BadRecord(index, "", reason, "") for index, reason in enumerate(["roles", "invalid", "invalid"])]
    assert count_reasons(bad) == {"invalid": 2, "roles": 1}
