"""`llava-pl serve`: transformers' own server, with OpenAI's interface, on the llava-hf form of a model."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llava_pl.app.arguments import OneLineArguments
from llava_pl.app.carry_commands import orderly_end
from llava_pl.app.open_model import DEVICES, DTYPES, add_reading_options, check_answers, check_exists
from llava_pl.app.talk.address import add_address_options, find_port, in_url, listens, warn_of_others
from llava_pl.packages import is_installed
from llava_pl.types import InputError

PORTS = range(8000, 8100)
PACKAGES = ("fastapi", "uvicorn", "openai")

DESCRIPTION = """Serve a model with OpenAI's interface, by transformers' own server. A model that is not in llava-hf's
form is written so first, into a folder that goes when the server does, or into --hf, where it stays.

  llava-pl serve runs/finetune_7b/TIME --hf llava-7b-hf
  llava-pl serve llava-7b-hf --port 8080 -- --continuous-batching

Options behind -- are those of `transformers serve`; paths among them have to be absolute. Only this machine reaches it,
unless --host says otherwise."""

SECONDS_TO_END = 10
"""After SIGTERM, for answers that are on their way."""

# -P: Python would import what lies in the folder above the model.
COMMAND = (sys.executable, "-P", "-m", "transformers.cli.transformers")

QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
"""Keeps transformers from asking other hosts for anything."""


def main(words: Sequence[str]) -> int:
    """Serve until Ctrl-C, and return the exit status of the server.

    Args:
        words: What follows ``llava-pl serve``.

    Raises:
        InputError: An option is wrong, a package is missing, the port is taken, or the model cannot be read.
    """
    own, more = _split(words)
    if taken := {"--host", "--port"} & {word.partition("=")[0] for word in more}:
        raise InputError(f"serve: {min(taken)} behind --: expected in front of it, as the address is printed")
    options = make_parser().parse_args(own)
    if missing := [package for package in PACKAGES if not is_installed(package)]:
        raise InputError(f"serve: needs {', '.join(missing)}, not installed; pip install -e '.[serve]' in the checkout")
    port = find_port(options.host, options.port, PORTS)
    with orderly_end(), _hf_form(options) as folder:
        warn_of_others(options.host)
        line = f"http://{in_url(options.host)}:{port}/v1  model {folder.name}  (Ctrl-C ends it)\n"
        place = ["--host", options.host, "--port", str(port)]
        chosen = ["--device", options.device, "--dtype", options.dtype]
        # From the folder above: what is served has the name that clients ask for.
        return _run(["serve", folder.name, *place, *chosen, *more], folder.parent, (options.host, port), line)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return this command's words, and those behind ``--``."""
    place = list(words).index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place + 1 :])


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl serve",
        usage="llava-pl serve MODEL [--port N] [--hf FOLDER] [options] [-- options of transformers serve]",
        description=DESCRIPTION,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder or checkpoint; every form that import reads")
    parser.add_argument("--hf", type=Path, metavar="FOLDER", help="keep the llava-hf form that is made there")
    add_reading_options(parser)
    add_address_options(parser, PORTS)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="auto: as the weights are")
    return parser


@contextmanager
def _hf_form(options: argparse.Namespace) -> Iterator[Path]:
    """Give the folder of the model in llava-hf's form, made for now if need be.

    Raises:
        InputError: There is no such model, it does not answer questions, or it has no such form.
    """
    from llava_pl.export.carry import carry, check_target, open_source
    from llava_pl.export.hf import is_hf

    check_exists(options.model)
    if is_hf(options.model):
        if options.hf is not None:
            raise InputError(f"--hf {options.hf}: {options.model} has llava-hf's form already; leave --hf out")
        yield _with_name(options.model)
        return
    if options.hf is not None:
        check_target(options.hf)  # before minutes of reading
    with tempfile.TemporaryDirectory(prefix="llava_pl-serve-") as place:
        target = (options.hf or Path(place) / _with_name(options.model).name).resolve()
        pretrained = open_source(
            options.model,
            base=options.base,
            vision_encoder=options.vision_encoder,
            tokenizer=None,
            unsafe=options.unsafe,
        )
        check_answers(pretrained, options.model)
        carry(pretrained, target, "hf", merge_lora=True, say=_say)
        del pretrained  # the server reads it once more
        yield target


def _with_name(path: Path) -> Path:
    """Return a path with a name to ask for: the one that is given, if only to a link."""
    path = path.absolute()
    return path.resolve() if path.name in ("", "..") else path


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _run(words: Sequence[str], folder: Path, place: tuple[str, int], line: str) -> int:
    """Run the server until it ends, and return its exit status; Ctrl-C is a good end.

    Args:
        words: Of transformers' command line.
        folder: To run it in.
        place: Host and port.
        line: Is printed once it listens there, which may be minutes later.
    """
    if listens(*place):  # since the model was read; the line would be printed for another server
        raise InputError(f"--port {place[1]}: another server listens there; choose another --port")
    with subprocess.Popen([*COMMAND, *words], cwd=folder, env={**os.environ, **QUIET}) as server:
        try:
            while server.poll() is None and not listens(*place):
                time.sleep(0.2)
            if server.poll() is None:
                sys.stdout.write(line)
                sys.stdout.flush()
            return server.wait()
        except KeyboardInterrupt:
            server.send_signal(signal.SIGINT)  # of a terminal it has it already
            server.wait()
            return 0
        except SystemExit:
            server.terminate()
            try:
                server.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:  # it waits for those who still read an answer
                server.kill()
            raise
