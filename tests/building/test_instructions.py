"""Guards what becomes of replies: a text under another picture, a fault that is learned from, an order that changes."""

import pytest

from llava_pl.building.descriptions import Box, Description
from llava_pl.building.instructions import check_written, make_requests
from llava_pl.building.objects import Names, Objects
from llava_pl.building.prompts import Prompt
from llava_pl.building.reply_store import ReplyStore, Teacher
from llava_pl.data.records import parse_record
from llava_pl.endpoint import Reply

DESCRIPTIONS = [Description(f"sub/{n}.png", (f"Picture {n}.",), (Box("dog", (0, 0, 1, 1)),)) for n in range(3)]
PROMPTS = [Prompt(kind, f"Write a {kind}.", ()) for kind in ("conversation", "reasoning")]
LONG = "It runs over the grass and does not mind the rain, which began an hour ago. " + " ".join(map(str, range(20)))


@pytest.fixture
def requests():
    return make_requests(DESCRIPTIONS, PROMPTS, Teacher("tiny", 0.7, 1024))


@pytest.fixture
def check(requests, tmp_path):
    def check(*texts, finish="stop", accepted_reasons=()):
        store = ReplyStore(tmp_path / "r.jsonl")
        for request, text in zip(requests, texts, strict=False):
            if text is not None:
                store.add(request.name, "x", "x", Reply(text, finish))
        objects = Objects({"dog", "cat"}, Names())
        return list(check_written(requests, store, objects, ["Describe it."], 0, accepted_reasons))

    return check


def test_requests_are_of_each_kind_for_each_picture(requests):
    assert [(each.description.image, each.kind) for each in requests] == [
        (f"sub/{n}.png", kind) for n in range(3) for kind in ("conversation", "reasoning")
    ]
    assert len({each.name for each in requests}) == 6
    assert requests[1].messages == [
        {"role": "system", "content": "Write a reasoning."},
        {"role": "user", "content": "Picture 0.\n\ndog: [0.000, 0.000, 1.000, 1.000]"},
    ]


def test_records(check):
    first, second = check(
        "Question: a?\nAnswer: b.\nQuestion: c?\nAnswer: d.", None, None, f"Question: e?\nAnswer: {LONG}"
    )
    assert (first.faults, second.faults) == ([], [])
    record = parse_record(first.record, where="x")
    assert (record.id, record.images) == ("sub/0.png_conversation", ("sub/0.png",))
    assert [turn.text.replace("<image>", "").strip() for turn in record.turns] == ["a?", "b.", "c?", "d."]
    assert parse_record(second.record, where="x").id == "sub/1.png_reasoning"


def test_faults(check):
    text = f"Question: e?\nAnswer: {LONG}"
    (no_form, sound, again) = check("Sure!", text, None, text)
    assert (no_form.record, [each.reason for each in no_form.faults]) == (None, ["form"])
    assert sound.faults == []
    assert [(each.reason, each.found) for each in again.faults] == [
        ("duplicate", "the same text as sub/0.png_reasoning")
    ]


@pytest.mark.parametrize("accepted_reasons", [(), ("object",)])
def test_a_text_repeats_those_alone_that_were_taken(check, accepted_reasons):
    text = f"Question: Where does the cat lie?\nAnswer: {LONG}"
    (first, second) = check(None, text, None, text, accepted_reasons=accepted_reasons)
    assert [fault.reason for fault in first.faults] == ["object"]
    assert [fault.reason for fault in second.faults] == ["object", *["duplicate"] * len(accepted_reasons)]


def test_pictures_that_differ_in_their_format_alone(tmp_path):
    descriptions = [Description(name, ("A dog.",)) for name in ("a.jpg", "a.png")]
    requests = make_requests(descriptions, PROMPTS[1:], Teacher("tiny", 0.7, 1024))
    store = ReplyStore(tmp_path / "r.jsonl")
    store.add(requests[0].name, "x", "x", Reply(f"Question: e?\nAnswer: {LONG}"))
    first, second = check_written(requests, store, Objects((), Names()), ["Describe it."], seed=0)
    assert [each.record["id"] for each in (first, second)] == ["a.jpg_reasoning", "a.png_reasoning"]
    assert [each.reason for each in second.faults] == ["duplicate"]


@pytest.mark.parametrize(
    ("text", "finish", "faults"),
    [
        (
            "",
            "length",
            [("cut_off", "the reply was cut off at its greatest length before it had a word; raise --max_tokens")],
        ),
        ("Question: a?", "length", [("cut_off", "the reply was cut off at its greatest length")]),
        (
            "Question: a?\nAnswer: b.\nQuestion: c?\nAnswer: d.",
            "content_filter",
            [("stopped", "the endpoint ended it with 'content_filter'")],
        ),
        ("", "stop", [("empty", "nothing was written")]),
    ],
)
def test_replies_that_did_not_end_by_themselves(check, text, finish, faults):
    (written,) = check(text, finish=finish)
    assert [(each.reason, each.found) for each in written.faults] == faults
