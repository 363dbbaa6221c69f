"""Guards other forms of conversations: a turn, a picture or its place that is lost on the way, or back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pl.building.formats import FORMS, read_entry, write_entry
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
    ):
        assert read_entry(entry, "sharegpt", "7", "x") == picture


TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("form", "entry", "message"),
    [
        ("sharegpt", 7, "x: expected an object, found int"),
        ("sharegpt", {}, "x: field 'conversations': expected a list, found NoneType"),
        ("messages", {"messages": "a"}, "x: field 'messages': expected a list, found str"),
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
            "x: messages[0]: expected a text in each part of type text, found none",
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
