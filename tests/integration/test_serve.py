"""Guards a served model: other answers than those of `llava-pl chat`, asked by OpenAI's own client."""

import base64
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI
from PIL import Image

from llava_pl.cli import main

pytestmark = pytest.mark.app

QUESTION = "What is it?"
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.effect_noise((64, 48), 90).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def client(imported):
    """A client of a served model, and the name that it is asked for by."""
    made = Path(imported).with_name("tiny-hf")
    (made.parent / "fastapi.py").write_text("raise SystemExit('what lies beside a model is not run')")
    words = ["serve", imported, "--hf", str(made), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llava_pl", *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    address, _, name = process.stdout.readline().split()[:3]
    client = OpenAI(base_url=address, api_key="none", max_retries=0)
    yield client, name
    process.send_signal(signal.SIGINT)  # to it alone, as a supervisor does
    assert process.wait(timeout=30) == 0


def ask(client, messages, **options):
    server, name = client
    return server.chat.completions.create(model=name, messages=messages, max_tokens=12, temperature=0, **options)


def test_the_pages_own_lines(client, imported, picture, capsys, monkeypatch):
    """`docs/serving.md`, with the address, the name and the picture that are here."""
    server, name = client
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "OpenAI" in code]
    monkeypatch.chdir(picture.parent)
    code = code.replace("http://127.0.0.1:8000/v1", str(server.base_url)).replace("llava-7b-hf", name)
    code = code.replace("cat.png", picture.name).replace("max_tokens=64", "max_tokens=12")
    capsys.readouterr()
    exec(compile(code, PAGE.name, "exec"), {})
    shown = capsys.readouterr().out.strip()
    assert shown == chat(imported, capsys, "--prompt", "What is it doing?", "--image", str(picture))


def with_picture(text, picture):
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return {"role": "user", "content": parts}


def chat(imported, capsys, *words):
    capsys.readouterr()
    assert main(["chat", imported, "--max_new_tokens", "12", *words]) == 0
    return capsys.readouterr().out.removesuffix("\n")


def test_text(client, imported, capsys):
    found = ask(client, [{"role": "user", "content": QUESTION}]).choices[0].message.content
    assert found.strip() == chat(imported, capsys, "--prompt", QUESTION)


def test_picture_and_stream(client, imported, picture, capsys):
    expected = chat(imported, capsys, "--prompt", QUESTION, "--image", str(picture))
    messages = [with_picture(QUESTION, picture)]
    assert ask(client, messages).choices[0].message.content.strip() == expected
    pieces = [part.choices[0].delta.content or "" for part in ask(client, messages, stream=True) if part.choices]
    assert "".join(pieces).strip() == expected
    assert sum(map(bool, pieces)) > 1


def test_several_turns(client, imported, picture):
    from llava_pl.app.open_model import OpenModel
    from llava_pl.app.talk.chat import Conversation
    from llava_pl.evaluation.chat import Sampling
    from llava_pl.export.layouts import load_pretrained

    pretrained = load_pretrained(imported)
    conversation = Conversation(
        OpenModel(pretrained.model.eval(), pretrained.make_encoder(), "tiny"), Sampling(max_new_tokens=12)
    )
    conversation.show(str(picture))
    conversation.take(QUESTION, "A dog.")
    expected = "".join(conversation.ask("And where?"))
    messages = [
        with_picture(QUESTION, picture),
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "And where?"},
    ]
    assert ask(client, messages).choices[0].message.content.strip() == expected
