"""Guards `llava-pl serve`: one line for what cannot be served; answers are guarded by `integration/test_serve.py`."""

import socket
import sys
from pathlib import Path

import pytest

from llava_pl.app.talk import serve_command
from llava_pl.cli import main


@pytest.fixture(scope="module")
def model(imported, tmp_path_factory):
    place = str(tmp_path_factory.mktemp("model") / "tiny-hf")
    assert main(["export", imported, place, "--format", "hf"]) == 0
    return place


@pytest.fixture
def ran(monkeypatch):
    """What the server is started with, in place of a server."""
    found = []
    monkeypatch.setattr(serve_command, "_run", lambda *started: found.append(started) or 0)
    return found


def test_a_model_in_llava_hfs_form_is_served_as_it_is(model, ran):
    assert main(["serve", model, "--port", "0", "--dtype", "float32", "--", "--continuous-batching"]) == 0
    ((words, folder, (host, number), line),) = ran
    assert str(folder) == model.rpartition("/")[0]
    port = words[words.index("--port") + 1]
    assert words == [
        "serve", "tiny-hf", "--host", "127.0.0.1", "--port", port, "--device", "auto", "--dtype", "float32",
        "--continuous-batching",
    ]  # fmt: skip
    assert (host, str(number)) == ("127.0.0.1", port)
    assert line == f"http://127.0.0.1:{port}/v1  model tiny-hf  (Ctrl-C ends it)\n"


def test_a_model_has_the_name_that_it_is_given_by(model, ran, tmp_path, monkeypatch):
    link = tmp_path / "newest"
    link.symlink_to(model)
    monkeypatch.chdir(tmp_path)
    assert main(["serve", "newest"]) == 0
    monkeypatch.chdir(model)
    assert main(["serve", "."]) == 0
    (Path(model) / "inside").mkdir()
    monkeypatch.chdir("inside")
    assert main(["serve", ".."]) == 0
    assert [(words[1], folder) for words, folder, *_ in ran] == [
        ("newest", tmp_path), ("tiny-hf", Path(model).parent), ("tiny-hf", Path(model).parent),
    ]  # fmt: skip


def test_the_address_is_printed_once_the_server_listens(monkeypatch, capsys, tmp_path):
    shown = []

    def listen(host, port):
        shown.append(capsys.readouterr().out)
        return len(shown) == 3

    monkeypatch.setattr(serve_command, "listens", listen)
    monkeypatch.setattr(serve_command, "COMMAND", (sys.executable, "-c", "import time; time.sleep(1)"))
    assert serve_command._run([], tmp_path, ("here", 1), "listens\n") == 0
    assert (shown, capsys.readouterr().out) == (["", "", ""], "listens\n")
    monkeypatch.setattr(serve_command, "listens", lambda *_: False)
    monkeypatch.setattr(serve_command, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    assert serve_command._run([], tmp_path, ("here", 1), "listens\n") == 3
    assert capsys.readouterr().out == ""


def test_addresses_of_more_than_four_bytes_have_brackets(model, ran, monkeypatch):
    monkeypatch.setattr(serve_command, "find_port", lambda *_: 8000)
    assert main(["serve", model, "--host", "::1"]) == 0
    ((words, _, place, line),) = ran
    assert (words[2:4], place) == (["--host", "::1"], ("::1", 8000))
    assert line.startswith("http://[::1]:8000/v1  model tiny-hf")


def test_other_forms_are_written_so_first(imported, ran, tmp_path):
    assert main(["serve", imported, "--hf", str(tmp_path / "kept")]) == 0
    assert main(["serve", imported]) == 0
    (kept, folder, *_), (passing, place, *_) = ran
    assert (kept[1], folder) == ("kept", tmp_path)
    assert (tmp_path / "kept" / "chat_template.jinja").is_file()
    assert passing[1] == "tiny"
    assert not place.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}/none"], "no such folder or file; expected a model"),
        (["{folder}"], "expected a model folder"),
        (["{model}", "--hf", "{folder}/new"], "has llava-hf's form already; leave --hf out"),
        (["{tiny}", "--hf", "{folder}"], "exists"),
        (["{model}", "--port", "{taken}"], "Address already in use"),
        ([], "MODEL"),
    ],
)
def test_one_line_for_wrong_input(words, message, model, imported, ran, tmp_path, capsys):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        names = {"folder": tmp_path, "model": model, "tiny": imported, "taken": server.getsockname()[1]}
        capsys.readouterr()
        try:
            status = main(["serve", *(word.format(**names) for word in words)])
        except SystemExit as end:
            status = end.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert ran == []


def test_without_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(serve_command, "is_installed", lambda name: name != "uvicorn")
    assert main(["serve", str(tmp_path)]) == 2
    assert "serve: needs uvicorn, not installed; pip install -e '.[serve]' in the checkout" in capsys.readouterr().err
