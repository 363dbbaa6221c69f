"""Guards `llava-pl web`: one line for what cannot be served, before minutes of reading weights."""

import socket
from urllib.request import urlopen

import pytest
from PIL import Image

from llava_pl.app.talk import web_command
from llava_pl.app.talk.address import find_port, in_url
from llava_pl.app.talk.web_command import draw_example
from llava_pl.cli import main
from llava_pl.types import InputError


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}/none"], "no such folder or file; expected a model"),
        (["{folder}"], "expected a model folder"),
        (["{folder}", "--image", "{folder}/text.png"], "text.png: expected a complete picture"),
        (["{folder}", "--port", "{taken}"], "Address already in use"),
        (["{folder}", "--port", "x"], "--port"),
        (["{folder}", "--host", ""], "--host: expected an address of this machine, found nothing"),
        ([], "MODEL"),
    ],
)
def test_one_line_for_wrong_input(words, message, taken, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    words = [word.format(folder=tmp_path, taken=taken) for word in words]
    try:
        status = main(["web", *words])
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_without_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(web_command, "is_installed", lambda name: False)
    assert main(["web", str(tmp_path)]) == 2
    assert "which is not installed; pip install -e '.[app]' in the checkout" in capsys.readouterr().err


def test_drawn_example(tmp_path):
    picture = Image.open(draw_example(tmp_path))
    assert picture.size == (336, 336)
    red, green, blue = picture.getpixel((280, 56))
    assert red > 2 * max(green, blue)  # the square that it asks about is red


@pytest.mark.app
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_page_is_where_it_is_said_to_be(host):
    import gradio as gr

    try:
        port = find_port(host, 0, [])
    except InputError:
        pytest.skip(f"no {host} on this machine")
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Markdown("here")
    try:
        web_command.launch(page, host, port)
        assert b"here" in urlopen(f"http://{in_url(host)}:{port}/config").read()
    finally:
        page.close(verbose=False)


def test_uploads_lie_in_a_folder_that_goes(monkeypatch):
    import os

    monkeypatch.setenv("GRADIO_TEMP_DIR", "elsewhere")
    with web_command._own_folder() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder / "uploads")
        assert folder.is_dir()
    assert not folder.exists()
