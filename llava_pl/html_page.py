"""What all pages share: one file without scripts or links, that any browser and reader can show."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Literal

from PIL import Image

from llava_pl.visible import visible

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border: 1px solid #767676; padding: .3rem .5rem; text-align: left; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
td.text { font-family: ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
img { border: 1px solid #767676; }
figure { display: inline-block; margin: .5rem .5rem 0 0; }
.warning { color: #8b0000; font-weight: bold; }
"""

FRAME_STYLE = "body { font-size: 13px; margin: .5rem; } h1 { font-size: 1.3em; } h2 { font-size: 1.1em; }"
"""Of a page in a frame: the cell of a notebook is narrower than a window."""


def page(title: str, body: str, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: Plain text, heading and title.
        body: HTML.
        style: More rules of CSS.
    """
    text = show(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text}</title>\n'
        f"<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n<h1>{text}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def frame(html: str, height_pixels: int = 480) -> str:
    """Return a page as a frame in another one, such as a notebook, whose own rules of CSS then stay as they are.

    Args:
        html: What `page` returns.
        height_pixels: What is longer is scrolled.
    """
    inside = html.replace("</head>", f"<style>{FRAME_STYLE}</style>\n</head>", 1)
    # The line's end, because IPython warns of what is a frame and nothing else.
    return f'<iframe srcdoc="{escape(inside)}" style="width: 100%; height: {height_pixels}px; border: 0"></iframe>\n'


def show(text: str) -> str:
    """Return plain text as HTML, control characters written out."""
    return escape(visible(text))


def picture_tag(picture: Image.Image, text: str, kind: Literal["png", "jpeg"] = "png") -> str:
    """Return a picture as a tag that holds it.

    Args:
        picture: What to show.
        text: What it shows, for those who cannot see it.
        kind: As which file; a jpeg of a photograph takes far less room, and is not exact.
    """
    file = io.BytesIO()
    picture.save(file, kind)
    data = base64.b64encode(file.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="data:image/{kind};base64,{data}" {size} alt="{show(text)}">'
