"""`llava-pl web`: a chat page for a model, on this machine."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from llava_pl.app.arguments import OneLineArguments
from llava_pl.app.carry_commands import orderly_end
from llava_pl.app.open_model import add_model_options, check_exists, open_model
from llava_pl.app.talk.address import add_address_options, find_port, in_url, warn_of_others
from llava_pl.app.talk.chat_command import add_sampling_options, check_picture, make_sampling
from llava_pl.packages import is_installed
from llava_pl.types import InputError

if TYPE_CHECKING:
    import gradio

PORTS = range(7860, 7960)
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
    options = make_parser().parse_args(list(words))
    check_exists(options.model)
    if not is_installed("gradio"):
        raise InputError("web: needs Gradio, which is not installed; pip install -e '.[app]' in the checkout")
    for path in options.image:
        check_picture(path)  # before minutes of reading weights, as the port
    port = find_port(options.host, options.port, PORTS)
    with orderly_end(), _own_folder() as folder:
        from llava_pl.app.talk.web import make_page  # not at the top: its imports take seconds

        examples = [(QUESTION, Path(path).expanduser()) for path in options.image]
        page = make_page(open_model(options), make_sampling(options), examples or [(EXAMPLE, draw_example(folder))])
        try:
            launch(page, options.host, port)
            warn_of_others(options.host)
            sys.stdout.write(f"http://{in_url(options.host)}:{port}  (Ctrl-C ends it)\n")
            sys.stdout.flush()
            Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        finally:
            page.close(verbose=False)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options, without torch."""
    parser = OneLineArguments(
        prog="llava-pl web",
        usage="llava-pl web MODEL [--image FILE] [--port N] [options]",
        description=DESCRIPTION,
    )
    add_model_options(parser)
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="example to click on; repeatable")
    add_address_options(parser, PORTS)
    add_sampling_options(parser)
    return parser


def launch(page: gradio.Blocks, host: str, port: int) -> None:
    """Serve a page in threads of its own."""
    from llava_pl.app.talk.web import STYLE

    fetch_nothing()
    page.launch(
        server_name=in_url(host),
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


def fetch_nothing() -> None:
    """Have Gradio refuse pictures that a message names by their address; it would fetch them from other hosts."""
    import safehttpx  # what Gradio fetches with
    from gradio.processing_utils import PUBLIC_HOSTNAME_WHITELIST

    async def refuse(hostname: str) -> str:
        raise ValueError(f"expected a picture that was uploaded, found an address at {hostname}")

    safehttpx.async_validate_url = refuse
    PUBLIC_HOSTNAME_WHITELIST.clear()  # these hosts would not be validated


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
