"""`llava-pl web`: a chat page for a model, on this machine."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from llava_pl.app.arguments import OneLineArguments
from llava_pl.app.chat_command import add_sampling_options, check_picture, make_sampling
from llava_pl.app.open_model import add_model_options, open_model
from llava_pl.types import InputError

if TYPE_CHECKING:
    import gradio

HOST, PORTS = "127.0.0.1", range(7860, 7960)
MAX_UPLOAD = "32mb"
QUESTION, EXAMPLE = "Describe the picture.", "What colour is the square?"

DESCRIPTION = """Show a page on which a model is asked about pictures, and which draws where it looked for each word.

  llava-pl web runs/finetune_7b/TIME
  llava-pl web llava-7b --image cat.jpg --image dog.jpg --port 8080

Only this machine reaches it, unless --host says otherwise; nothing is sent anywhere. Ctrl-C ends it."""


def main(words: Sequence[str]) -> int:
    """Show the page until Ctrl-C, and return the exit status.

    Args:
        words: What follows ``llava-pl web``.

    Raises:
        InputError: An option is wrong, Gradio is missing, the port is taken, or the model cannot be read.
    """
    options = _parse(words)
    if find_spec("gradio") is None:
        raise InputError("web: needs Gradio, which is not installed; pip install 'llava_pl[app]'")
    for path in options.image:
        check_picture(path)  # before minutes of reading weights, as the port
    port = find_port(options.host, options.port)
    with _own_folder() as folder:
        from llava_pl.app.web import make_page  # not at the top: its imports take seconds

        examples = [(QUESTION, Path(path).expanduser()) for path in options.image]
        page = make_page(open_model(options), make_sampling(options), examples or [(EXAMPLE, draw_example(folder))])
        launch(page, options.host, port)
        if options.host not in (HOST, "localhost", "::1"):
            sys.stderr.write(f"llava-pl: --host {options.host}: whoever reaches this address can ask the model\n")
        sys.stdout.write(f"http://{options.host}:{port}  (Ctrl-C ends it)\n")
        sys.stdout.flush()
        try:
            Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        finally:
            page.close(verbose=False)
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = OneLineArguments(
        prog="llava-pl web",
        usage="llava-pl web MODEL [--image FILE] [--port N] [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_model_options(parser)
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="example to click on; repeatable")
    parser.add_argument("--host", default=HOST, metavar="ADDRESS", help=f"who can reach the page ({HOST})")
    parser.add_argument("--port", type=int, metavar="N", help=f"where (the first free one from {PORTS[0]} on)")
    add_sampling_options(parser)
    return parser.parse_args(list(words))


def find_port(host: str, port: int | None) -> int:
    """Return the port that is asked for, or a free one.

    Raises:
        InputError: It is taken, or there is no such address on this machine.
    """
    for number in PORTS if port is None else [port]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except PermissionError as error:
                raise InputError(f"--port {number}: only an administrator may; choose one above 1023") from error
            except (OSError, OverflowError) as error:
                reason = str(getattr(error, "strerror", None) or error)
                if port is not None or isinstance(error, socket.gaierror) or "assign" in reason:
                    what = f"--host {host} --port {number}"
                    raise InputError(f"{what}: cannot be served ({reason}); choose another --port or --host") from error
            else:
                return int(probe.getsockname()[1])
    raise InputError(f"--port: none of {PORTS[0]} to {PORTS[-1]} is free; name another")


def launch(page: gradio.Blocks, host: str, port: int) -> None:
    """Serve a page in threads of its own."""
    from llava_pl.app.web import STYLE

    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        show_error=True,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        css=STYLE,
    )


def draw_example(folder: Path) -> Path:
    """Write a picture of two drawn shapes, and return its path."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (336, 336), (125, 125, 125))
    brush = ImageDraw.Draw(picture)
    brush.rectangle((240, 16, 320, 96), fill=(215, 45, 45))
    brush.ellipse((12, 236, 100, 324), fill=(50, 80, 215))
    path = folder / "shapes.png"
    picture.save(path)
    return path


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Give Gradio a folder for what is uploaded, which goes when the page does, and have it tell nobody."""
    folder = Path(tempfile.mkdtemp(prefix="llava_pl-web-"))
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
