"""Guards: a run that learns from other records than it says, or from one that is bad, or is told wrong figures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from llava_pl.data.entries import RunSource, open_entries
from llava_pl.data.quarantine import Quarantine, write_quarantine
from llava_pl.data.sources import Source
from llava_pl.data.training_data import GivenRecords, TrainingData
from llava_pl.types import BadRecord, InputError, RecordError


def entry(name: str, answer: str = "Hi") -> dict:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": "a.png", "conversations": turns}


@pytest.fixture
def write(tmp_path):
    (tmp_path / "a.png").touch()  # the encoder's image folder; here nobody opens it

    def write(label: str, *entries: object, repeats: float = 1.0) -> RunSource:
        path = tmp_path / f"{label}.json"
        path.write_text(json.dumps(list(entries)))
        return RunSource(label, Source.of(path), repeats)

    return write


@pytest.fixture
def leaving_out(tmp_path):
    """Returns a quarantine of what was found in some sources, given by source, index and id."""

    def leaving_out(sources, *places: tuple[str, int, str]) -> Quarantine:
        bad = [BadRecord(index, name, "roles", "why", source=source) for source, index, name in places]
        write_quarantine(tmp_path / "bad.json", open_entries(sources, [], tmp_path / "cache"), bad)
        return Quarantine.read(tmp_path / "bad.json")

    return leaving_out


def open_data(sources, encoder, tmp_path, **options) -> TrainingData:
    return TrainingData(sources, encoder, cache_dir=tmp_path / "cache", **options)


def ids(records) -> list[str]:
    return [record.id for record in records]


def test_sources_are_one_after_the_other(write, encoder, tmp_path):
    sources = [write("a", entry("a0"), entry("a1", "A dog")), write("b", entry("b0", "No."), repeats=2)]
    data = open_data(sources, encoder, tmp_path)
    assert ids(data.records) == ["a0", "a1", "b0", "b0"]
    assert list(data.places) == ["a 0", "a 1", "b 0", "b 0"]
    assert data.num_tokens.tolist() == [8, 11, 9, 9]
    assert data.num_words.tolist() == [2, 3, 2, 2]
    assert data.tokens is None
    assert data.labels == ("a", "b")
    assert data.count_sources([0, 2, 3]) == [1, 2]


def test_pictures_are_counted_as_often_as_an_epoch_shows_them(write, encoder, tmp_path, leaving_out):
    for name in ("b.png", "c.png"):
        (tmp_path / name).touch()
    shown = [{**entry(f"a{number}"), "image": name} for number, name in enumerate(("a.png", "b.png", "b.png"))]
    sources = [write("a", *shown), write("b", {**entry("b0"), "image": "c.png"})]
    sources[1] = replace(sources[1], repeats=2)
    quarantine = leaving_out(sources, ("a", 0, "a0"))
    data = open_data(sources, encoder, tmp_path, quarantine=quarantine)
    assert data.count_pictures() == {"b.png": 2, "c.png": 2}
    assert GivenRecords(list(data.records), lambda: encoder).count_pictures() == data.count_pictures()


def test_missing_pictures_are_found_before_the_run(write, encoder, tmp_path):
    gone = {**entry("a1"), "image": "gone.png"}
    with pytest.raises(RecordError) as caught:
        open_data([write("a", entry("a0"), gone)], encoder, tmp_path)
    where = f"a: {tmp_path / 'a.json'}: record 1 (id 'a1'): picture 'gone.png': no such file in data.image_folder. "
    assert str(caught.value).startswith(f"{where}1 of 2 records cannot be learned from (picture_missing 1); ")
    assert caught.value.reason == "picture_missing"


def test_missing_pictures_beside_a_quarantine_wait_for_their_turn(write, leaving_out, encoder, tmp_path):
    gone, said = {**entry("a1"), "image": "gone.png"}, []
    source = write("a", entry("a0"), gone, {**gone, "id": "a2"})
    data = open_data([source], encoder, tmp_path, quarantine=leaving_out([source], ("a", 1, "a1")), say=said.append)
    assert ids(data.records) == ["a0", "a2"]
    assert "a: 1 records miss a picture and are not in the quarantine, such as a 2: 'gone.png'; " in said[-1]
    named = leaving_out([source], ("a", 1, "a1"), ("a", 2, "a2"))
    data = open_data([source], encoder, tmp_path, quarantine=named)
    assert ids(data.records) == ["a0"]


def test_a_source_without_any_of_its_pictures_is_refused_beside_a_quarantine(write, leaving_out, encoder, tmp_path):
    gone = {**entry("a0"), "image": "gone.png"}
    source = write("a", gone, {**gone, "id": "a1"}, {"id": "a2", "conversations": gone["conversations"][1:]})
    named = leaving_out([source], ("a", 1, "a1"))
    with pytest.raises(RecordError, match=r"picture 'gone\.png': no such file"):
        open_data([source], encoder, tmp_path, quarantine=named)


def test_tokens_are_kept_on_request(write, encoder, tmp_path):
    data = open_data([write("a", entry("a0")), write("b", entry("b0", "No."))], encoder, tmp_path, has_tokens=True)
    for record, tokens in zip(data.records, data.tokens, strict=True):
        assert torch.equal(tokens.input_ids, encoder.tokenize(record).input_ids)


def test_bad_records_are_those_of_their_source(write, leaving_out, encoder, tmp_path):
    sources = [write("a", entry("a0"), {"id": "w"}), write("b", entry("b0", ""), entry("b1"))]
    with pytest.raises(RecordError) as caught:
        open_data(sources, encoder, tmp_path)
    assert str(caught.value).startswith(
        f"a: {tmp_path / 'a.json'}: record 1 (id 'w'): field 'conversations': expected "
    )
    assert ". 2 of 4 records cannot be learned from (invalid 1, empty_answer 1); " in str(caught.value)
    said = []
    bad = leaving_out(sources, ("a", 1, "w"), ("b", 0, "b0"))
    data = open_data(sources, encoder, tmp_path, quarantine=bad, say=said.append)
    assert ids(data.records) == ["a0", "b1"]
    assert said == [f"data.quarantine: {bad.path}: {label}: 1 of 2 records are left out, roles 1" for label in "ab"]
    message = r"^b: .*b\.json: record 0 \(id 'b0'\): turn 1: the answer is empty; .* 1 of 4 "
    for named in ([("a", 1, "w")], [("a", 1, "w"), ("b", 1, "b1")]):
        with pytest.raises(RecordError, match=message):
            open_data(sources, encoder, tmp_path, quarantine=leaving_out(sources, *named))


def test_a_quarantine_serves_another_order_and_a_part_of_the_sources(write, leaving_out, encoder, tmp_path):
    sources = [write("a", entry("a0"), {"id": "w"}), write("b", entry("b0", ""), entry("b1"))]
    bad = leaving_out(sources, ("a", 1, "w"), ("b", 0, "b0"))
    assert ids(open_data(sources[::-1], encoder, tmp_path, quarantine=bad).records) == ["b1", "a0"]
    assert ids(open_data(sources[1:], encoder, tmp_path, quarantine=bad).records) == ["b1"]


def test_other_data_is_refused_before_it_is_encoded(write, leaving_out, encoder, tmp_path, monkeypatch):
    bad = leaving_out([write("a", entry("a0"), {"id": "w"})], ("a", 1, "w"))
    monkeypatch.setattr("llava_pl.data.training_data.EncodedRecords.of", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(InputError, match=r"a: expected content .*; this is not the data that was checked: run "):
        open_data([write("a", entry("a0", "Ho"), {"id": "w"})], encoder, tmp_path, quarantine=bad)


def test_entries_are_numbered_within_their_source(write, leaving_out, encoder, tmp_path):
    sources = [write("a", {"id": "v"}, entry("a0")), write("c", entry("c0"), {"id": "w"})]
    data = open_data(sources, encoder, tmp_path, quarantine=leaving_out(sources, ("a", 0, "v"), ("c", 1, "w")))
    assert {label: ids(entries) for label, entries in data.entries.items()} == {"a": ["v", "a0"], "c": ["c0", "w"]}
    assert [data.find(source, place) for source in "ac" for place in range(2)] == [None, 0, 1, None]


def test_what_is_left_out_is_neither_counted_nor_repeated(write, leaving_out, encoder, tmp_path):
    source = write("a", entry("a0"), entry("a1", "A dog"), entry("a2", "No."), repeats=1.5)
    data = open_data([source], encoder, tmp_path, quarantine=leaving_out([source], ("a", 1, "a1")))
    assert sorted(ids(data.records)) in (["a0", "a0", "a2"], ["a0", "a2", "a2"])
    assert data.describe() == [
        "data.records: a: 2 records, 1 left out, 1.5 times an epoch, 17 tokens (mean 8.5, p50 8, p95 9), "
        "41.2 % supervised"
    ]


def test_figures(write, encoder, tmp_path):
    sources = [write("a", *[entry(str(n), "x" * (n + 1)) for n in range(100)])]
    assert open_data(sources, encoder, tmp_path).describe() == [
        # BOS, four image tokens, 1 to 100 letters and a line break, the last two supervised.
        "data.records: a: 100 records, 5,650 tokens (mean 56.5, p50 56, p95 101), 91.2 % supervised",
    ]
    assert open_data([write("none")], encoder, tmp_path).describe() == ["data.records: none: 0 records"]
    dropping = replace(encoder, max_length=16, on_too_long="drop")
    assert (
        open_data(sources, dropping, tmp_path)
        .describe()[0]
        .startswith("data.records: a: 100 records, 90 dropped for their length, 205 tokens (mean 2.0")
    )


def test_content_tells_epochs_apart(write, leaving_out, encoder, tmp_path):
    first = [write("a", entry("a0"), entry("a1"))]
    contents = [open_data(first, encoder, tmp_path).content, open_data(first, encoder, tmp_path).content]
    contents += [
        open_data([replace(first[0], repeats=2.0)], encoder, tmp_path).content,
        open_data(first, encoder, tmp_path, quarantine=leaving_out(first, ("a", 0, "a0"))).content,
        open_data([write("a", entry("a0"), entry("a1", "No"))], encoder, tmp_path).content,
    ]
    halves = [replace(first[0], repeats=0.5)]
    contents += [open_data(halves, encoder, tmp_path, seed=seed).content for seed in (0, 5)]
    variant = replace(first[0], source=replace(first[0].source, variant="another way to read it"))
    contents.append(open_data([variant], encoder, tmp_path).content)
    assert contents[0] == contents[1]
    assert len(set(contents)) == len(contents) - 1


def test_records_that_are_given_are_one_source(write, encoder, tmp_path):
    data = open_data([write("a", entry("a0"), entry("a1", "A dog"))], encoder, tmp_path)
    given = GivenRecords(list(data.records), lambda: encoder)
    assert (given.labels, given.tokens, given.content, given.describe()) == (("records",), None, None, [])
    assert given.num_tokens.tolist() == data.num_tokens.tolist() == [8, 11]
    assert given.num_words.tolist() == data.num_words.tolist() == [2, 3]
    assert given.count_sources([0, 1, 1]) == [3]
    assert given.find("records", 1) == 1
    assert given.entries == {"records": given.records}


def test_lengths_are_small_numbers(write, encoder, tmp_path):
    assert open_data([write("a", entry("a0"))], encoder, tmp_path).num_tokens.dtype == np.int32
