"""Guards: a bad record that the check lets through, so that a run dies on it hours later; or a good one named."""

import json

import pytest

from llava_pl.app.data.check import check_records
from llava_pl.app.load_data import load_data
from llava_pl.types import BadRecord, InputError, Record, Turn


def load(zoo, *words):
    data = load_data(["--config", str(zoo / "config.yaml"), *words])
    return data.open_entries(), data.make_encoder()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_zoo(zoo, zoo_reasons, num_workers):
    done = []
    records, encoder = load(zoo)
    report = check_records(records, encoder, num_workers=num_workers, advance=done.append)
    assert {bad.index: bad.reason for bad in report.bad} == zoo_reasons
    assert report.summary == "22 of 32 records are bad"
    assert sum(done) == report.num_records == 32
    assert {bad.source for bad in report.bad} == {"records"}
    ids = [entry["id"] for entry in json.loads((zoo / "records.json").read_text())]
    assert all(bad.id == ids[bad.index] and "\n" not in bad.message for bad in report.bad)
    assert next(bad.images for bad in report.bad if bad.id == "mark_missing") == ("good.png",)
    assert report.repeated_ids == {"good": 2}
    assert report.notes == ["ids that occur more than once in a source: 1, such as 'good' (2 times)"]


def test_reasons_are_sorted_by_how_often_they_occur(zoo):
    reasons = check_records(*load(zoo)).by_reason()
    assert {reason: len(bad) for reason, bad in reasons.items()} == {
        "picture_broken": 4, "picture_missing": 3, "path_outside": 3, "invalid": 4, "image_slots": 2, "roles": 1,
        "alternation": 1, "empty_answer": 1, "nothing_supervised": 1, "too_long": 2,
    }  # fmt: skip


def conversation(*texts):
    return tuple(Turn(("human", "gpt")[index % 2], text) for index, text in enumerate(texts))


LONG = [Record("short", conversation("a", "b")), Record("long", conversation("a", "b" * 300))]


@pytest.mark.parametrize(
    ("policy", "reasons", "notes"),
    [
        ("truncate_text", [], ["records longer than max_length, which lose the end of their text: 1"]),
        ("drop", [], ["records that training leaves out: 1 (too_long)"]),
        ("error", ["too_long"], []),
    ],
)
def test_too_long_is_what_training_makes_of_it(zoo, policy, reasons, notes):
    _, encoder = load(zoo, "--data.on_too_long", policy)
    report = check_records({"a": LONG}, encoder)
    assert ([bad.reason for bad in report.bad], report.notes) == (reasons, notes)


def test_an_answer_that_is_cut_off_whole_leaves_nothing_to_learn(zoo):
    _, encoder = load(zoo, "--data.max_length", "10")
    report = check_records({"a": LONG[:1]}, encoder)
    assert report.bad[0].reason == "nothing_supervised"
    assert report.bad[0].message.startswith("record 'short': nothing is supervised, after ")


def test_records_that_could_not_be_parsed_are_handed_on(zoo):
    bad = BadRecord(0, "", "invalid", "why")
    report = check_records({"a": [bad, bad, LONG[0]]}, load(zoo)[1])
    assert report.bad == [bad, bad]
    assert report.repeated_ids == {}


def test_good_records(zoo):
    report = check_records({"a": LONG[:1], "none": []}, load(zoo)[1])
    assert (report.summary, report.notes, report.by_reason()) == (
        "all 1 records are good",
        ["a: 0 of 1 are bad", "none: 0 of 0 are bad"],
        {},
    )


def test_places_and_ids_count_within_a_source(zoo):
    wrong = Record("short", conversation("a", ""))
    report = check_records({"a": [LONG[0], wrong], "b": [wrong, LONG[0], wrong]}, load(zoo)[1])
    assert [(bad.place, bad.reason) for bad in report.bad] == [
        (place, "empty_answer") for place in ("a 1", "b 0", "b 2")
    ]
    assert report.summary == "3 of 5 records are bad"
    assert report.notes[:2] == ["a: 1 of 2 are bad", "b: 2 of 3 are bad"]
    assert check_records({"a": LONG[:1], "b": LONG[:1]}, load(zoo)[1]).repeated_ids == {}


def test_validation_is_checked_like_training(zoo, zoo_reasons):
    report = check_records(*load(zoo, "--data.val_records", str(zoo / "records.json")))
    for source in ("records", "data.val_records"):
        assert {bad.index: bad.reason for bad in report.bad if bad.source == source} == zoo_reasons


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_wrong_setting_is_no_bad_record(zoo, num_workers):
    records, encoder = load(zoo, "--data.template", "chat")
    with pytest.raises(InputError, match="tokenizer has no chat template"):
        check_records(records, encoder, num_workers=num_workers)
