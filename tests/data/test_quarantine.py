"""Guards: a run leaves out other records than those that were found bad, or of other data, without a word."""

import json
from dataclasses import replace

import pytest

from llava_pl.data.entries import Entries, RunSource
from llava_pl.data.quarantine import Quarantine, count_reasons, is_quarantine, refuse, write_quarantine
from llava_pl.data.sources import Source
from llava_pl.data.store_cache import open_store
from llava_pl.types import BadRecord, InputError, RecordError

BAD = BadRecord(1, "b", "roles", "record 1: field 'from'", source="talk")
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def entry(index, name, reason="roles", source="talk"):
    return {"source": source, "index": index, "id": name, "reason": reason}


def error_of(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def make(tmp_path):
    """Returns the entries of a source, one for each id, which lie in a file of its name or of another one."""

    def make(label, ids, file=None, **changes):
        path = tmp_path / f"{file or label}.json"
        path.write_text(json.dumps([{"id": name, "conversations": TURNS} for name in ids]))
        source = RunSource(label, replace(Source.of(path), **changes))
        return Entries(source, open_store(source.source, tmp_path / "cache"))

    return make


@pytest.fixture
def write(tmp_path):
    """Returns a quarantine of some checked entries by label, as it is read again."""

    def write(sources, *bad):
        write_quarantine(tmp_path / "bad.json", sources, bad)
        return Quarantine.read(tmp_path / "bad.json")

    return write


@pytest.fixture
def read(tmp_path):
    """Returns what is read from a file with these entries of four records of talk and one of other."""

    def read(*entries):
        sources = {"talk": {"records": 4, "content": "c"}, "other": {"records": 1, "content": "d"}}
        (tmp_path / "bad.json").write_text(json.dumps({"sources": sources, "records": list(entries)}))
        return Quarantine.read(tmp_path / "bad.json")

    return read


def test_what_is_written_is_read_again(make, tmp_path):
    sources = {"talk": make("talk", "abcdefgh"), "data.val_records": make("data.val_records", "wx"), "clean": [BAD]}
    bad = [
        BadRecord(1, "b", "roles", "why", ("a.png",), "talk"),
        BadRecord(7, "\ud83d", "invalid", "a \u2581", source="talk"),
        BadRecord(1, "x", "roles", "why", source="data.val_records"),
    ]
    path = tmp_path / "bad.json"
    write_quarantine(path, sources, bad)
    assert path.read_text().isascii()
    assert is_quarantine(path)
    content = json.loads(path.read_text())
    assert content["records"][0] == {"source": "talk", "index": 1, "id": "b", "reason": "roles", "message": "why"}
    assert content["sources"]["talk"] == {"records": 8, "content": sources["talk"].content}
    found = Quarantine.read(path).sources
    assert {label: checked.left_out for label, checked in found.items()} == {
        "talk": {1: BadRecord(1, "b", "roles", "why", source="talk"), 7: bad[1]},
        "data.val_records": {1: bad[2]},
        "clean": {},
    }
    assert (found["clean"].num_records, found["clean"].content) == (1, "")


def test_exactly_the_named_records_of_a_source_are_left_out_and_counted(make, write):
    talk = make("talk", "abcd")
    other = BadRecord(0, "a", "roles", "why", source="other")
    quarantine = write(
        {"talk": talk, "other": make("other", "ae")},
        BadRecord(3, "d", "picture_broken", "why", source="talk"), BAD, other,
    )  # fmt: skip
    said = []
    assert sorted(quarantine.leave_out("talk", talk, said.append)) == [1, 3]
    assert said == [f"data.quarantine: {quarantine.path}: talk: 2 of 4 records are left out, picture_broken 1, roles 1"]


def test_a_source_that_was_found_clean_is_known(make, write):
    talk, said = make("talk", "ab"), []
    quarantine = write({"talk": talk})
    quarantine.check_labels(["talk"])
    assert quarantine.leave_out("talk", talk, said.append) == {}
    assert said == [f"data.quarantine: {quarantine.path}: talk: 0 of 2 records are left out"]


def test_a_source_that_was_not_checked_is_refused(make, write):
    talk = make("talk", "ab")
    quarantine = write({"talk": talk, "chart": make("chart", "c")}, BAD)
    quarantine.check_labels(["chart", "talk"])
    quarantine.check_labels(["talk"])
    expected = (
        f"data.quarantine: {quarantine.path}: expected a source that was checked (talk, chart), found new; run "
        "`llava-pl data check` on all data of this run, or give the source the name that it had"
    )
    assert error_of(lambda: quarantine.check_labels(["talk", "new"])) == expected
    assert error_of(lambda: quarantine.find("new", talk)) == expected


def test_a_file_that_was_moved_is_the_data_that_was_checked(make, write):
    quarantine = write({"talk": make("talk", "abcd")}, BAD)
    assert list(quarantine.find("talk", make("talk", "abcd", file="moved"))) == [1]


@pytest.mark.parametrize("changes", [{"ids": "abce"}, {"ids": "abcde"}, {"variant": "trainval QCM-A"}])
def test_data_that_is_not_what_was_checked_is_refused(make, write, changes):
    """Also where the ids at all places of the file are the same, and where it is read in another way."""
    talk = make("talk", "abcd")
    quarantine = write({"talk": talk}, BAD)
    other = make("talk", **{"ids": "abcd", "file": "other"} | changes)
    assert error_of(lambda: quarantine.find("talk", other)) == (
        f"data.quarantine: {quarantine.path}: talk: expected content {talk.content[:8]}, 4 records, found "
        f"{other.content[:8]}, {len(other)} records; this is not the data that was checked: run `llava-pl data check` "
        "again"
    )


def test_a_source_of_which_nothing_is_left_is_refused(make, write):
    talk, empty = make("talk", "ab"), make("empty", "")
    quarantine = write({"talk": talk, "empty": empty}, replace(BAD, index=0, reason="invalid"), BAD)
    assert error_of(lambda: quarantine.leave_out("talk", talk, print)) == (
        f"data.quarantine: {quarantine.path}: talk: all 2 records are left out (invalid 1, roles 1); mend them, or "
        "take the source out of the run"
    )
    assert sorted(quarantine.find("talk", talk)) == [0, 1]
    assert quarantine.leave_out("empty", empty, lambda _: None) == {}


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
    "wrong",
    [
        3, {}, entry("1", "b"), entry(True, "b"), entry(1, None), entry(1, "b", None), entry(1, "b", source=4),
        entry(1, "b", source="chart"), entry(-1, "b"), entry(4, "b"),
    ],
)  # fmt: skip
def test_malformed_entry_is_named(read, tmp_path, wrong):
    start = f"{tmp_path / 'bad.json'}: records, entry 1: expected an object with a source"
    assert error_of(lambda: read(entry(1, "b"), wrong)).startswith(start)


def test_a_list_of_an_older_version_is_refused(tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps([entry(1, "b")]))
    assert error_of(lambda: Quarantine.read(tmp_path / "bad.json")) == (
        f"{tmp_path / 'bad.json'}: expected a JSON object that says which data was checked, found a list, as older "
        "versions wrote it; delete it and write it again with `llava-pl data check --quarantine`"
    )
    assert not is_quarantine(tmp_path / "bad.json")


@pytest.mark.parametrize("content", [3, {}, {"sources": {}}, {"sources": [], "records": []}, {"records": []}])
def test_file_is_no_quarantine(tmp_path, content):
    (tmp_path / "bad.json").write_text(json.dumps(content))
    found = error_of(lambda: Quarantine.read(tmp_path / "bad.json"))
    assert "expected a JSON object with sources and records" in found


@pytest.mark.parametrize(
    "source", [3, {}, {"records": 2}, {"records": "2", "content": "c"}, {"records": 2, "content": 3}]
)
def test_malformed_source_is_named(tmp_path, source):
    (tmp_path / "bad.json").write_text(json.dumps({"sources": {"talk": source}, "records": []}))
    found = error_of(lambda: Quarantine.read(tmp_path / "bad.json"))
    assert found.startswith(f"{tmp_path / 'bad.json'}: sources, talk: expected an object with records and content")


def test_place_that_cannot_be_written(tmp_path):
    assert "cannot be written" in error_of(lambda: write_quarantine(tmp_path / "none" / "bad.json", {}, []))
    assert not is_quarantine(tmp_path / "none" / "bad.json")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_quarantine(tmp_path / "bad.json", {"talk": ["a"]}, [])
    before = (tmp_path / "bad.json").read_text()

    def fail(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    assert "No space left" in error_of(lambda: write_quarantine(tmp_path / "bad.json", {}, []))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]
    assert (tmp_path / "bad.json").read_text() == before


def test_reasons_are_counted_the_most_frequent_first():
    bad = [BadRecord(index, "", reason, "") for index, reason in enumerate(["roles", "invalid", "invalid"])]
    assert count_reasons(bad) == {"invalid": 2, "roles": 1}
