"""What tests of configurations share: the program's own parser, up to where it would build a run."""

import socket
from pathlib import Path

import pytest
from jsonargparse import Namespace

from llava_pl.lightning_cli import LlavaCLI, run_lightning

ALIGN = Path(__file__).resolve().parents[2] / "configs" / "experiment" / "align_7b.yaml"


def _plain(value):
    """Return a parsed configuration as plain values, without the names of the files that it came from."""
    if isinstance(value, Namespace):
        return {key: _plain(item) for key, item in vars(value).items() if key not in ("config", "__path__")}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@pytest.fixture
def plain():
    """A parsed configuration as plain values."""
    return _plain


@pytest.fixture(scope="module")
def no_run():
    """Stop `run_lightning` where it would build the trainer, and collect the command lines that got so far."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlavaCLI, "before_instantiate_classes", lambda cli: None)
        patch.setattr(LlavaCLI, "instantiate_classes", lambda cli: seen.append(cli))
        patch.setattr(LlavaCLI, "_run_subcommand", lambda cli, command: None)
        patch.setattr(socket.socket, "connect", _refuse)
        yield seen


def _refuse(*address):
    raise AssertionError(f"the network was asked for while parsing: {address[1:]}")


@pytest.fixture(scope="module")
def parser(no_run):
    """The parser that the program itself uses, with all its links and defaults."""
    run_lightning(["fit", "--config", str(ALIGN)])
    return no_run[-1].parser


@pytest.fixture
def fit(parser):
    return lambda *words: parser.parse_args(["fit", *words]).fit


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the test's folder, which is also the working directory, and return the words that give it."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="extra.yaml"):
        (tmp_path / name).write_text(text)
        return ["--config", name]

    return write
