"""Guards `llava-pl chat`: one answer to a pipe or an option, a conversation in a terminal, one line for mistakes."""

import io
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from llava_pl.app.talk import chat_command
from llava_pl.app.talk.chat_command import answer, talk
from llava_pl.cli import main
from llava_pl.types import InputError


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "noise.png"
    Image.effect_noise((20, 12), 90).convert("RGB").save(path)
    return str(path)


def test_one_answer(imported, picture, capsys, monkeypatch):
    words = ["--image", picture, "--max_new_tokens", "9"]
    capsys.readouterr()
    assert main(["chat", imported, *words, "--prompt", "What is it?"]) == 0
    found = capsys.readouterr().out
    assert found.endswith("\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is it?\n"))
    assert main(["chat", imported, *words]) == 0
    assert capsys.readouterr().out == found
    assert main(["chat", imported, "--max_new_tokens", "9", "--prompt", "What is it?"]) == 0
    assert capsys.readouterr().out != found


def test_bytes_that_are_no_text_get_one_line(imported, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    assert main(["chat", imported]) == 2
    error = capsys.readouterr().err
    assert error == "llava-pl: error: question: expected text in UTF-8, found \\udcff as character 2\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{model}", "--prompt", " "], "chat: expected a question, found nothing"),
        (["{model}/none", "--prompt", "x"], "no such folder or file; expected a model"),
        (["{folder}", "--prompt", "x"], "expected a model folder"),
        (["{model}", "--prompt", "x", "--image", "{folder}/none.png"], "none.png"),
        (["{model}", "--prompt", "x", "--image", "{folder}/text.png"], "text.png: expected a complete picture"),
        (["{model}", "--prompt", "x", "--temperature", "-1"], "temperature: expected 0 or more, found -1"),
        (["{model}", "--prompt", "x", "--tempo", "1"], "--tempo"),
        ([], "MODEL"),
    ],
)
def test_wrong_input_gets_one_line(imported, tmp_path, capsys, words, message):
    (tmp_path / "text.png").write_text("no picture")
    capsys.readouterr()
    try:
        status = main(["chat", *(word.format(model=imported, folder=tmp_path) for word in words)])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


class Conversation:
    """Answers with what it was asked, a letter at a time; of "stop", as if Ctrl-C were pressed."""

    def __init__(self):
        self.opened, self.waiting, self.asked, self.saved = type("Opened", (), {"name": "tiny"}), [], [], None

    def ask(self, text):
        self.asked.append(text)
        if text == "fail":
            raise InputError("too long")
        for letter in text:
            yield letter
            if text == "stop":
                raise KeyboardInterrupt

    def show(self, path):
        return (30, 20)

    def save(self, path):
        self.saved = path

    def reset(self):
        self.asked.clear()


def typed(*lines):
    """Return what reads these lines, then the end."""
    waiting = iter(lines)

    def read(prompt):
        line = next(waiting, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    return read


def test_a_conversation_in_a_terminal(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda: True}))
    conversation = Conversation()
    lines = ["/help", "/image 'a b.png'", "hi", "", "stop", KeyboardInterrupt(), "fail", f"/save {tmp_path / 'c.json'}"]
    talk(conversation, typed(*lines, "/nothing", "/save", "last"))
    shown = capsys.readouterr().out
    assert conversation.asked == ["hi", "stop", "fail", "last"]
    assert conversation.saved == tmp_path / "c.json"
    for words in (
        "/reset        begin a new", "the next question shows a b.png, 30 x 20 pixels", "\nhi\n", "s [stopped]",
        "/quit or Ctrl-D ends", "too long", "expected one of these, found '/nothing'", "\nlast\n",
    ):  # fmt: skip
        assert words in shown
    talk(conversation, typed("/reset", "/quit", "never"))
    assert conversation.asked == []


def test_a_pipe_is_interrupted_as_a_whole(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(KeyboardInterrupt):
        answer(Conversation(), "stop")


def test_words_of_a_model_are_no_commands_of_the_terminal(capsys):
    answer(Conversation(), "a\x1b[31m\nb")
    assert capsys.readouterr().out == "a\\x1b[31m\nb\n"


def test_help_needs_no_torch(capsys):
    with pytest.raises(SystemExit) as stop:
        chat_command.main(["--help"])
    assert stop.value.code == 0
    assert "llava-pl chat MODEL" in capsys.readouterr().out


def test_lines_are_remembered(monkeypatch, tmp_path):
    """With a stand-in for `readline`, which keeps the lines of the process that runs the tests."""
    lines = []
    stand_in = SimpleNamespace(
        read_history_file=lambda path: lines.extend(path.read_text().splitlines()),
        write_history_file=lambda path: path.write_text("\n".join(lines)),
        set_history_length=lambda number: None,
    )
    monkeypatch.setitem(sys.modules, "readline", stand_in)
    monkeypatch.setenv("LLAVA_PL_CACHE", str(tmp_path / "new" / "cache"))
    with chat_command._line_editing():
        assert lines == []
        lines.append("What is it?")
    lines.clear()
    with chat_command._line_editing():
        assert lines == ["What is it?"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAVA_PL_CACHE", str(tmp_path / "file"))
    with chat_command._line_editing():
        pass  # nowhere to keep them, and nobody is stopped by that
