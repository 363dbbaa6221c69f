"""Guards who is told what: no command asks another host for anything, or tells it, without being told to.

Names are looked up and connections opened through Python's `socket` in real processes; `tests/support/closed` writes
down who was asked for. The browser's requests are guarded in `test_web_page.py`.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.app

CLOSED = Path(__file__).parents[1] / "support" / "closed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_parts):
    """Parts, four records, and the settings of a run of two steps."""
    folder = tmp_path_factory.mktemp("closed")
    Image.effect_noise((20, 12), 90).convert("RGB").save(folder / "grey.png")
    turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "grey"}]
    records = [{"id": index, "image": "grey.png", "conversations": turns} for index in range(4)]
    (folder / "records.json").write_text(json.dumps(records))
    encoder = {"path": str(tiny_parts / "encoder"), "select_layer": -2, "select_feature": "patch"}
    model = {"vision_encoder": encoder, "decoder": {"path": str(tiny_parts / "decoder")}}
    data = {"records": "records.json", "image_folder": ".", "batch_size": 2, "num_workers": 0}
    settings = {
        "model": {**model, "stage": "finetune", "optim": {"learning_rate": 0.001}},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": data},
        "trainer": {"max_steps": 2, "accelerator": "cpu"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def start(folder):
    """Starts a command in a closed network."""

    def start(*words, **options):
        # As on a user's machine: nothing here says that it is offline.
        hidden = ("HF_HUB_OFFLINE", "WANDB_MODE", "LLAVA_PL_CACHE")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment["PYTHONPATH"] = os.pathsep.join([str(CLOSED), str(CLOSED.parents[2])])
        environment |= {"CLOSED_NETWORK_LOG": str(folder / "asked.txt"), "LLAVA_PL_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "llava_pl", *words]
        return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **options)

    return start


@pytest.fixture(scope="module")
def checkpoint(start, folder):
    """The folder of a run that was trained in a closed network."""
    assert start("fit", "--config", "run.yaml", "--run_dir", "run", stderr=subprocess.DEVNULL).wait(timeout=240) == 0
    return folder / "run"


def asked(folder):
    path = folder / "asked.txt"
    return path.read_text() if path.exists() else ""


def test_whoever_asks_is_written_down(start, folder):
    """Without this, the tests below could not fail."""
    code = "import urllib.request as r; r.urlopen('http://example.invalid/')"
    environment = {"PYTHONPATH": str(CLOSED), "CLOSED_NETWORK_LOG": str(folder / "own.txt"), "PATH": os.environ["PATH"]}
    assert subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL).returncode == 1
    assert "getaddrinfo example.invalid" in (folder / "own.txt").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["doctor"],
        ["data", "check", "--config", "run.yaml"],
        ["chat", "run", "--prompt", "Colour?", "--image", "grey.png", "--max_new_tokens", "3"],
        ["export", "run", "run-hf", "--format", "hf"],
        ["runs", "."],
    ],
    ids=lambda words: words[0],
)
def test_nobody_is_asked(start, folder, checkpoint, words):
    assert checkpoint.is_dir()
    assert start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(timeout=240) == 0
    assert asked(folder) == ""


@pytest.mark.parametrize("command", ["web", "serve"])
def test_no_server_asks_anybody(start, folder, checkpoint, command):
    process = start(command, str(checkpoint), "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    if command == "serve":
        assert any("startup complete" in line for line in iter(process.stderr.readline, ""))
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert asked(folder) == ""


def test_no_address_in_a_message_is_asked(start, folder, checkpoint):
    """Gradio would fetch a picture that a message names by its address, and ask the name service first."""
    process = start("web", str(checkpoint), "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    server = process.stdout.readline().split()[0]
    try:
        for host in ("example.invalid", "huggingface.co", "192.0.2.7"):
            with pytest.raises(HTTPError):
                urlopen(f"{server}/gradio_api/file=http://{host}/a.png", timeout=60)
            found = send_history(server, f"http://{host}/a.png")
            assert found["success"] is False
            assert found["output"]["error"] == f"expected a picture that was uploaded, found an address at {host}"
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert asked(folder) == ""


def send_history(server, path):
    """Send the page a conversation with a picture at a path, to list its words, and return what comes of it."""
    config = json.loads(urlopen(f"{server}/config").read())
    (chatbot,) = [each["id"] for each in config["components"] if each["type"] == "chatbot"]
    function = next(each["id"] for each in config["dependencies"] if each["inputs"] == [chatbot])
    file = {"type": "file", "file": {"path": path, "meta": {"_type": "gradio.FileData"}}}
    history = [{"role": "user", "content": [file, {"type": "text", "text": "What?"}]}]
    body = json.dumps({"data": [history], "fn_index": function, "session_hash": "here"}).encode()
    urlopen(Request(f"{server}/gradio_api/queue/join", body, {"Content-Type": "application/json"}), timeout=60).close()
    with urlopen(f"{server}/gradio_api/queue/data?session_hash=here", timeout=60) as events:
        messages = (json.loads(line.removeprefix(b"data: ")) for line in events if line.startswith(b"data: "))
        return next(message for message in messages if message["msg"] == "process_completed")
