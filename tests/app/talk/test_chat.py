"""Guards a conversation: a picture that is shown twice or never, and a stopped answer that is lost."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from llava_pl.app.talk import chat
from llava_pl.app.talk.chat import Conversation
from llava_pl.data.records import parse_record
from llava_pl.evaluation.chat import Sampling
from llava_pl.types import InputError, RecordError, Turn


@pytest.fixture
def asked(monkeypatch):
    """What the model is asked: turns and number of pictures; it answers "one two"."""
    found = []

    def stream(model, encoder, turns, pictures, sampling):
        found.append((list(turns), len(pictures)))
        yield from ("one", " two")

    monkeypatch.setattr(chat, "stream_answer", stream)
    return found


@pytest.fixture
def conversation(tmp_path):
    for name in "ab":
        Image.new("RGB", (30, 20)).save(tmp_path / f"{name}.png")
    opened = SimpleNamespace(model=None, encoder=SimpleNamespace(respect_exif=True), name="tiny")
    return Conversation(opened, Sampling())


def test_pictures_stand_in_front_of_the_next_question(conversation, asked, tmp_path):
    assert conversation.show(str(tmp_path / "a.png")) == (30, 20)
    assert "".join(conversation.ask("What?")) == "one two"
    assert "".join(conversation.ask("And?")) == "one two"
    assert asked == [
        ([Turn("human", "<image>\nWhat?")], 1),
        ([Turn("human", "<image>\nWhat?"), Turn("gpt", "one two"), Turn("human", "And?")], 1),
    ]


def test_a_question_may_say_where_its_pictures_are(conversation, asked, tmp_path):
    for name in "ab":
        conversation.show(str(tmp_path / f"{name}.png"))
    list(conversation.ask("Is <image> or <image> larger?"))
    assert asked == [([Turn("human", "Is <image> or <image> larger?")], 2)]
    with pytest.raises(InputError, match=r"found it 1 times and 0 pictures; .* or write < image > for the word"):
        list(conversation.ask("<image>?"))


def test_a_stopped_answer_is_a_part_of_the_conversation(conversation, asked):
    pieces = conversation.ask("What?")
    next(pieces)
    pieces.close()
    assert conversation.turns == [Turn("human", "What?"), Turn("gpt", "one")]


def test_a_question_that_fails_leaves_the_conversation_as_it_was(conversation, monkeypatch, tmp_path):
    def stream(*_):
        raise InputError("too long")
        yield

    monkeypatch.setattr(chat, "stream_answer", stream)
    conversation.show(str(tmp_path / "a.png"))
    with pytest.raises(InputError, match="too long"):
        list(conversation.ask("What?"))
    assert (conversation.turns, len(conversation.waiting)) == ([], 1)
    with pytest.raises(InputError, match="expected a question, found nothing; ask it together with its pictures"):
        list(conversation.ask(" "))
    with pytest.raises(InputError, match=r"^question: expected text in UTF-8, found \\udcff as character 3$"):
        list(conversation.ask("a?\udcff"))
    assert (conversation.turns, len(conversation.waiting)) == ([], 1)


def test_saved_conversations_are_records(conversation, asked, tmp_path):
    with pytest.raises(InputError, match="/save: nothing was said yet"):
        conversation.save(tmp_path / "c.json")
    conversation.show(str(tmp_path / "a.png"))
    list(conversation.ask("What\u00e9?"))
    conversation.save(tmp_path / "c.json")
    (content,) = json.loads((tmp_path / "c.json").read_text())
    record = parse_record(content, where="c.json")
    assert record.images == (str(tmp_path / "a.png"),)
    assert [turn.text for turn in record.turns] == ["<image>\nWhat\u00e9?", "one two"]
    conversation.reset()
    assert (conversation.turns, conversation.pictures) == ([], [])


def test_no_picture(conversation, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(RecordError, match="expected a complete picture"):
        conversation.show(str(tmp_path / "text.png"))


def test_an_answer_that_spells_an_image_slot_shows_no_picture(conversation):
    conversation.take("What?", "a <image> b")
    conversation.take("And?", "c")
    assert [turn.text for turn in conversation.turns] == ["What?", "a < image > b", "And?", "c"]
