"""Guards what the page asks of the model: a conversation of other turns or pictures than the page shows."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from llava_pl.app.talk import chat
from llava_pl.app.talk.desk import NO_ANSWER, Desk, read_history
from llava_pl.data.image import ImageTransform
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation.chat import Sampling
from llava_pl.types import InputError, Turn


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "uploads" / "a.png"
    path.parent.mkdir()
    Image.new("RGB", (30, 20), (200, 0, 0)).save(path)
    return str(path)


@pytest.fixture
def opened(build, tiny_parts):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_parts / "decoder")
    encoder = SampleEncoder(tokenizer, ImageTransform.from_pretrained(tiny_parts / "encoder"), Path(), 4)
    return SimpleNamespace(model=build().eval(), encoder=encoder, name="tiny")


def user(text, *paths):
    files = [{"type": "file", "file": {"path": path}} for path in paths]
    return {"role": "user", "content": [*files, {"type": "text", "text": text}]}


def model(text, **more):
    return {"role": "assistant", "content": [{"type": "text", "text": text}], **more}


def test_history_is_turns_with_their_pictures(opened, picture):
    history = [user("What?", picture), model("red"), user("And?"), model("small")]
    found = read_history(history, opened, Sampling())
    assert found.turns == [
        Turn("human", "<image>\nWhat?"), Turn("gpt", "red"), Turn("human", "And?"), Turn("gpt", "small"),
    ]  # fmt: skip
    assert [image.size for _, image in found.pictures] == [(30, 20)]


def test_questions_without_an_answer_are_left_out(opened, picture):
    """After an error, a stop before the first word, and where an answer is yet to come; their files are not read."""
    error = model("No answer: too long", metadata={"id": NO_ANSWER})
    history = [user("Lost?", "/gone.png"), error, user("Stopped?"), model(" "), user("What?", picture), model("red")]
    found = read_history([*history, user("Now?", "/gone.png")], opened, Sampling())
    assert found.turns == [Turn("human", "<image>\nWhat?"), Turn("gpt", "red")]
    assert (len(found.pictures), found.waiting) == (1, [])


def test_answer_grows_and_is_drawn_as_the_sliders_say(opened, picture, monkeypatch):
    asked = []

    def stream(network, encoder, turns, pictures, sampling):
        asked.append((list(turns), len(pictures), sampling))
        yield from ("one", " two")

    monkeypatch.setattr(chat, "stream_answer", stream)
    desk = Desk(opened, seed=7)
    question = {"text": "And?", "files": [picture, {"path": picture}]}
    history = [user("What?", picture), model("red")]
    assert list(desk.answer(question, history, 0.5, 0.9, 40)) == ["one", "one two"]
    turns = [Turn("human", "<image>\nWhat?"), Turn("gpt", "red"), Turn("human", "<image>\n<image>\nAnd?")]
    assert asked == [(turns, 3, Sampling(40, 0.5, 0.9, 7))]


def test_a_stopped_answer_lets_the_next_one_begin(opened, monkeypatch):
    ended = []

    def stream(*_):
        try:
            yield "one"
            yield "two"
        finally:
            ended.append(True)

    monkeypatch.setattr(chat, "stream_answer", stream)
    desk = Desk(opened, seed=None)
    for count in (1, 2):
        pieces = desk.answer({"text": "And?", "files": []}, [], 0, 1, 9)
        assert next(pieces) == "one"
        pieces.close()
        assert len(ended) == count


def test_words_and_what_was_looked_at_for_them(opened, picture):
    history = [user("What?", picture), model("red"), user("Where?"), model("top left.")]
    desk = Desk(opened, seed=None)
    assert desk.methods == ["attention", "gradient"]
    assert desk.list_words(history) == [("top", 0), ("left.", 1)]
    assert desk.list_words([user("Hi?"), model("yes")]) == desk.list_words([]) == []
    ((first, line),) = desk.draw(history, 1, "attention")
    ((second, other),) = desk.draw(history, 1, "gradient")
    assert first.size == second.size == (560, 373)
    assert first.tobytes() != second.tobytes()
    assert line.startswith("left.: ")
    assert line.endswith(" % of its attention is here")
    assert other == "left."


def test_errors_do_not_tell_the_servers_folders(opened, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    question = {"text": "What?", "files": [str(tmp_path / "text.png")]}
    with pytest.raises(InputError, match=r"^cannot read picture text.png: ") as error:
        list(Desk(opened, None).answer(question, [], 0, 1, 9))
    assert str(tmp_path) not in str(error.value)
    with pytest.raises(InputError, match="expected a question, found nothing"):
        list(Desk(opened, None).answer({"text": " ", "files": []}, [], 0, 1, 9))
