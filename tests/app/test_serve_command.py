"""Guards `llava-pl serve`: one line for what cannot be served; answers are guarded by `integration/test_serve.py`."""

import socket

import pytest

from llava_pl.app import serve_command
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
    monkeypatch.setattr(serve_command, "_run", lambda words, folder: found.append((words, folder)) or 0)
    return found


def test_a_model_in_llava_hfs_form_is_served_as_it_is(model, ran, capsys):
    capsys.readouterr()
    assert main(["serve", model, "--port", "0", "--dtype", "float32", "--", "--continuous-batching"]) == 0
    ((words, folder),) = ran
    assert str(folder) == model.rpartition("/")[0]
    port = words[words.index("--port") + 1]
    assert words == [
        "serve", "tiny-hf", "--host", "127.0.0.1", "--port", port, "--device", "auto", "--dtype", "float32",
        "--continuous-batching",
    ]  # fmt: skip
    assert capsys.readouterr().out == f"http://127.0.0.1:{port}/v1  model tiny-hf  (Ctrl-C ends it)\n"


def test_addresses_of_more_than_four_bytes_have_brackets(model, ran, capsys, monkeypatch):
    monkeypatch.setattr(serve_command, "find_port", lambda *_: 8000)
    capsys.readouterr()
    assert main(["serve", model, "--host", "::1"]) == 0
    assert ran[0][0][2:4] == ["--host", "::1"]
    assert capsys.readouterr().out.startswith("http://[::1]:8000/v1  model tiny-hf")


def test_other_forms_are_written_so_first(imported, ran, tmp_path):
    assert main(["serve", imported, "--hf", str(tmp_path / "kept")]) == 0
    assert main(["serve", imported]) == 0
    (kept, folder), (passing, place) = ran
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
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert main(["serve", str(tmp_path)]) == 2
    assert "serve: needs uvicorn, not installed; pip install -e '.[serve]' in the checkout" in capsys.readouterr().err
