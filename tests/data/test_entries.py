"""Guards: a check that goes through other records than the run, or passes a mixture that the run refuses."""

import json
import pickle
from dataclasses import replace

import pytest

from llava_pl.data.entries import VAL_LABEL, Entries, Places, RunSource, check_sources, content_of, open_entries
from llava_pl.data.sources import Source
from llava_pl.data.store_cache import open_store
from llava_pl.types import BadRecord, InputError

TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


@pytest.fixture
def make(tmp_path):
    """Returns a source with a record for each id; one that is negative has no turns."""

    def make(label, *ids, repeats=1.0):
        path = tmp_path / f"{label}.json"
        path.write_text(json.dumps([{"id": id_, "conversations": TURNS if id_ >= 0 else []} for id_ in ids]))
        return RunSource(label, Source.of(path), repeats)

    return make


def test_entries_are_those_of_the_file_and_know_their_source(make, tmp_path):
    opened = open_entries([make("a", 1, -2, 3), make("b", 4)], [make(VAL_LABEL, -5)], tmp_path / "cache")
    assert {label: [entry.id for entry in entries] for label, entries in opened.items()} == {
        "a": ["1", "-2", "3"],
        "b": ["4"],
        VAL_LABEL: ["-5"],
    }
    assert list(opened) == ["a", "b", VAL_LABEL]
    assert isinstance(opened["a"], Entries)
    bad = [entry for entries in opened.values() for entry in entries if isinstance(entry, BadRecord)]
    assert [entry.place for entry in bad] == ["a 1", "data.val_records 0"]
    for place in (-1, 3):
        with pytest.raises(IndexError):
            opened["a"][place]


def test_places_are_those_that_a_quarantine_names(make, tmp_path):
    store = open_store(make("a", 1, -2, 3).source, tmp_path / "cache")
    assert list(pickle.loads(pickle.dumps(Places("a", store)))) == ["a 0", "a 2"]


def test_a_name_stands_for_one_source(make, tmp_path):
    same = replace(make("b", 1), label="a")
    with pytest.raises(InputError) as caught:
        check_sources([make("a", 1), make("c", 2), same], [make(VAL_LABEL, 2)])
    assert str(caught.value) == (
        f"data.records: expected names that differ, found a for {tmp_path / 'a.json'} and {tmp_path / 'b.json'}; give "
        f"one of them a name: {{path: {tmp_path / 'b.json'}, name: NAME}}"
    )


@pytest.mark.parametrize("has_val", [True, False])
def test_the_name_of_validation_is_reserved(make, tmp_path, has_val):
    with pytest.raises(InputError) as caught:
        check_sources([make("a", 1), make(VAL_LABEL, 1)], [make(VAL_LABEL, 1)] if has_val else [])
    path = tmp_path / f"{VAL_LABEL}.json"
    assert str(caught.value) == (
        f"data.records: {path}: the name data.val_records is reserved for validation; give another one: "
        f"{{path: {path}, name: NAME}}"
    )


def test_content_is_that_of_the_data_wherever_it_lies(make, tmp_path):
    def content(source: RunSource) -> str:
        return content_of(Entries(source, open_store(source.source, tmp_path / "cache")))

    first, moved, other = make("a", 1, -2), make("b", 1, -2), make("c", 1, -3)
    variant = replace(first, source=replace(first.source, variant="another way to read it"))
    assert content(first) == content(moved)
    assert len({content(first), content(other), content(variant)}) == 3
    assert content_of([BadRecord(0, "a", "roles", "why")]) == ""


def test_labels_are_those_of_training_and_validation(make):
    assert check_sources([make("a", 1)], [make(VAL_LABEL, 2)]) == ["a", VAL_LABEL]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"repeats": 0.0}, r"data\.records: b: repeats: expected more than 0 and at most 1000, found 0\.0"),
        ({"repeats": 0.1}, r"data\.records: b: an epoch holds none of its records; leave the source out"),
    ],
)
def test_what_a_run_refuses_is_refused(make, tmp_path, second, message):
    with pytest.raises(InputError, match=message):
        open_entries([make("a", 1), make("b", 2, **second)], [], tmp_path / "cache")
