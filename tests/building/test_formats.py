"""Guards other forms of conversations: a turn, a picture or its place that is lost on the way, or back."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_pl.building.formats import FORMS, find_pictures, read_entry, write_entry
from llava_pl.building.record_files import write_entries
from llava_pl.data.records import read_records
from llava_pl.types import Record, RecordError, Turn

WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda text: "<image>" not in text
)


@st.composite
def records(draw):
    images = draw(st.lists(st.sampled_from(["a.png", "b/c.jpg"]), max_size=3))
    questions = draw(st.lists(WORDS, min_size=max(1, len(images)), max_size=4))
    for number in range(len(images)):
        questions[number] = f"<image>\n{questions[number]}"
    turns = [turn for text in questions for turn in (Turn("human", text), Turn("gpt", draw(WORDS)))]
    return Record(draw(WORDS), tuple(turns), tuple(images))


@given(records(), st.sampled_from(FORMS))
def test_there_and_back(record, form):
    assert read_entry(write_entry(record, form), form, "unused", "x") == record


@st.composite
def entries(draw):
    """Draw an entry as others write it, with its form and the record that it stands for."""
    record = draw(records())
    form = draw(st.sampled_from(FORMS))
    entry = write_entry(record, form) | {"source": "x", "license": None}
    shape = draw(st.sampled_from(["names", "objects", "inline", "beside"]))
    pictures = [{"bytes": None, "path": name} for name in record.images]
    if form != "llava" and shape == "objects":
        entry["images"] = pictures
    elif form != "llava" and shape == "beside":
        entry |= {"images": draw(st.sampled_from([None, []])), "image": list(record.images)}
    elif form == "messages" and shape == "inline":
        unused = iter(draw(st.sampled_from([pictures, record.images])))
        for message in entry["messages"]:
            if message["content"].startswith("<image>\n"):
                image = {"type": "image", draw(st.sampled_from(["image", "path", "url"])): next(unused)}
                message["content"] = [image, {"type": "text", "text": message["content"].removeprefix("<image>\n")}]
        del entry["images"]
    return entry, form, record


@settings(deadline=None)
@given(st.lists(entries(), max_size=3))
def test_what_is_converted_is_what_training_reads(tmp_path_factory, drawn):
    path = tmp_path_factory.getbasetemp() / "converted.json"
    converted = [read_entry(json.loads(json.dumps(entry)), form, "unused", "x") for entry, form, _ in drawn]
    write_entries(path, [write_entry(record, "llava") for record in converted])
    assert read_records(path) == [record for _, _, record in drawn]
    assert [find_pictures(entry, form, "x") for entry, form, _ in drawn] == [list(each.images) for *_, each in drawn]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["user", "<image>", "a.png", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["id", "images", "image", "messages", "conversations", "role", "from", "value", "content", "type", "text",
             "path", "bytes", "system", "tools", "loss"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(JSON, st.lists(JSON, max_size=3), JSON, st.sampled_from(FORMS))
def test_any_json_is_an_entry_or_refused(entry, turns, part, form):
    spoken = [{"role": turn, "from": turn, "content": [part, turn], "value": part} for turn in turns]
    full = {**(entry if isinstance(entry, dict) else {"images": part}), "messages": spoken, "conversations": spoken}
    for each in (entry, full, full | {"messages": turns, "conversations": turns}):
        for is_strict in (True, False):
            with suppress(RecordError):
                record = read_entry(each, form, "name", "x", is_strict=is_strict)
                json.dumps(write_entry(record, form), ensure_ascii=False).encode()
        with suppress(RecordError):
            find_pictures(each, form, "x")


def test_what_others_write():
    picture = Record("7", (Turn("human", "<image>\nWhat?"), Turn("gpt", "A dog.")), ("a.png",))
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    inline = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "What?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}
    for entry in (
        {"messages": [{"role": "user", "content": parts}, answer], "images": ["a.png"]},
        {"messages": [{"role": "user", "content": inline}, answer], "images": None},
        {"id": 7, "messages": [{"role": "user", "content": inline}, answer]},
    ):
        assert read_entry(entry, "messages", "7", "x") == picture
    turns = [{"from": "user", "value": "<image>\nWhat?"}, {"from": "assistant", "value": "A dog."}]
    for entry in (
        {"conversations": turns, "images": ["a.png"]},
        {"conversations": turns, "image": "a.png", "system": ""},
        {"conversations": turns, "image": "a.png", "images": [], "tools": []},
        {"conversations": turns, "image": "a.png", "images": None},
        {"conversations": turns, "image": "a.png", "images": ["a.png"]},
        {"conversations": turns, "images": [{"bytes": None, "path": "a.png"}], "license": "CC BY"},
        {"conversations": [{**turn, "weight": None} for turn in turns], "images": ["a.png"]},
    ):
        assert read_entry(entry, "sharegpt", "7", "x") == picture


@pytest.mark.parametrize("form", FORMS)
def test_counting_passes_over_what_a_record_cannot_say(form):
    field, role, text = ("messages", "role", "content") if form == "messages" else ("conversations", "from", "value")
    who = {"llava": "human", "sharegpt": "user", "messages": "user"}[form]
    entry = {field: [{role: who, text: "a", "weight": 0}], "system": "Be brief.", "images": None}
    assert read_entry(entry, form, "7", "x", is_strict=False).turns == (Turn("human", "a"),)


def test_pictures_are_found_whatever_else_is_said():
    parts = [{"type": "image", "image": "b.png"}, {"type": "video"}, "odd"]
    entry = {"images": ["a.png"], "messages": [{"role": "tool", "content": parts}, 7, {"content": "c"}]}
    assert find_pictures(entry, "messages", "x") == ["a.png", "b.png"]
    with pytest.raises(RecordError, match=r"^x: expected names of pictures, found list \[7\]"):
        find_pictures({"images": [7], "conversations": []}, "sharegpt", "x")


MARKED = Record("7", (Turn("human", "What does <image> mean?"), Turn("gpt", "A picture.")))


def test_letters_of_a_mark_are_said_by_records_alone():
    assert read_entry(write_entry(MARKED, "llava"), "llava", "", "x") == MARKED
    for form in ("sharegpt", "messages"):
        with pytest.raises(RecordError, match=r"^expected a picture for each mark, found 1 '<image>' and no picture"):
            write_entry(MARKED, form)


def test_pictures_that_are_no_files_are_not_written():
    shown = Record("7", (Turn("human", "<image>"),), ("https://a/b.png",))
    for form in FORMS:
        with pytest.raises(RecordError, match="found an address"):
            write_entry(shown, form)


TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("form", "entry", "message"),
    [
        ("sharegpt", 7, "x: expected an object, found int"),
        ("sharegpt", {}, "x: field 'conversations': expected a list, found nothing"),
        ("messages", {"messages": "a"}, "x: field 'messages': expected a list, found str 'a'"),
        (
            "llava",
            {"messages": []},
            "x: field 'conversations': expected a list, found nothing; it has 'messages', so look at --from",
        ),
        ("llava", {"conversations": TURNS, "system": "Be brief."}, "x: field 'system': expected none, found a system"),
        ("sharegpt", {"conversations": TURNS, "tools": [{}]}, "x: field 'tools': expected none, found list [{}]; take"),
        (
            "llava",
            {"conversations": [{**TURNS[0], "weight": 0}]},
            "x: conversations[0]: expected no field but from, value, found 'weight', which a record cannot say",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "x: messages[1]: expected no field but role, content, found 'tool_calls'",
        ),
        ("messages", {"messages": [{"role": ["user"]}]}, "x: messages[0]: expected role user or assistant, found ['us"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "x: expected a picture for each mark, found 1 '<image>' and no picture; name it in 'images'",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "<image><image>"}], "images": []},
            "x: expected a picture for each mark, found 2 '<image>' and no picture",
        ),
        (
            "sharegpt",
            {"conversations": TURNS, "images": ["a.png"], "image": "b.png"},
            "x: expected pictures in 'images' or in 'image', found both",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
            "x: messages[0]: expected pictures by the names of their files, found an 'image_url'; save the picture",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "image": "b.png"}]}]},
            "x: messages[0]: expected a text in each part of type text, and no more, found",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image", "text": "a", "image": "b.png"}]}]},
            "x: messages[0]: expected parts of type text and image, found {'type': 'image'",
        ),
        (
            "sharegpt",
            {"system": "Be brief.", "conversations": TURNS},
            "x: field 'system': expected none, found a system",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "system", "value": "a"}]},
            "x: conversations[0]: expected none, found a system",
        ),
        (
            "messages",
            {"messages": [{"role": "tool", "content": "a"}]},
            "x: messages[0]: expected role user or assistant, found 'tool'",
        ),
        ("messages", {"messages": [7]}, "x: messages[0]: expected role user or assistant, found 7"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "x: messages[0]: expected parts of type text and image, found 'video'",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "x: messages[0]: expected a text in each part of type text, and no more, found {'type': 'text'}",
        ),
        (
            "messages",
            {"images": ["b.png"], "messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]},
            "x: expected pictures in 'images' or in the parts, found both",
        ),
        ("sharegpt", {"conversations": TURNS, "images": ["a.png"]}, "x (id 'name'): "),
        (
            "llava",
            {"conversations": TURNS, "images": ["a.png"]},
            "x: field 'images': expected 'image', as LLaVA has it",
        ),
    ],
)
def test_what_a_record_cannot_say(form, entry, message):
    with pytest.raises(RecordError) as caught:
        read_entry(entry, form, "name", "x")
    assert str(caught.value).startswith(message)
