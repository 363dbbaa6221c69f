"""What a teacher wrote beside the picture that it never saw, boxes drawn: what was taken, and what was not and why.

In: what became of replies. Out: a page of HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw

from llava_pl.building.descriptions import Box
from llava_pl.building.instructions import Written
from llava_pl.building.prompts import KINDS
from llava_pl.html_page import page, picture_tag, show
from llava_pl.types import InputError

NUM_EXAMPLES = 10
"""Of each kind that was taken, and of each reason for which one was not."""

PICTURE_PIXELS = 320
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#bcbd22")


def instruction_page(
    counts: Mapping[str, int],
    good: Sequence[Written],
    rejected: Sequence[Written],
    load_picture: Callable[[str], Image.Image] | None,
) -> str:
    """Return the page.

    Args:
        counts: By what is counted.
        good: What became records.
        rejected: What did not.
        load_picture: Returns a picture by its name, or raises InputError; None to show none.
    """
    rows = (f'<tr><td>{show(name)}</td><td class="number">{number:,}</td></tr>\n' for name, number in counts.items())
    body = f"<table>\n<tbody>\n{''.join(rows)}</tbody>\n</table>\n"
    for kind in KINDS:
        body += _section(f"{kind}: taken", [each for each in good if each.request.kind == kind], load_picture)
    for reason in sorted({fault.reason for each in rejected for fault in each.faults}):
        those = [each for each in rejected if any(fault.reason == reason for fault in each.faults)]
        body += _section(f"{reason}: not taken", those, load_picture)
    return page("Instructions of a teacher", body, "td.told { width: 22rem; }")


def draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """Return a small copy of a picture with boxes and the names of what is in them."""
    copy = picture.convert("RGB")
    copy.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    pen = ImageDraw.Draw(copy)
    for number, box in enumerate(boxes):
        colour = COLOURS[number % len(COLOURS)]
        left, top, right, bottom = (
            share * side for share, side in zip(box.corners, (copy.width, copy.height) * 2, strict=True)
        )
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
        place = pen.textbbox((left + 3, top + 2), box.category)
        pen.rectangle(place, fill="white")
        pen.text((left + 3, top + 2), box.category, fill=colour)
    return copy


def _section(title: str, written: Sequence[Written], load_picture: Callable[[str], Image.Image] | None) -> str:
    if not written:
        return ""
    shown = f", the first {NUM_EXAMPLES} of them" if len(written) > NUM_EXAMPLES else ""
    rows = "".join(_row(each, load_picture) for each in written[:NUM_EXAMPLES])
    return (
        f"<h2>{show(title)}: {len(written):,}{shown}</h2>\n<table>\n"
        '<thead><tr><th scope="col">what the teacher was told</th><th scope="col">what it wrote</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>\n"
    )


def _row(written: Written, load_picture: Callable[[str], Image.Image] | None) -> str:
    description = written.request.description
    told = "".join(f"<p>{show(line)}</p>" for line in description.text.splitlines() if line)
    faults = "".join(f'<p class="warning">{show(f"{each.reason}: {each.found}")}</p>' for each in written.faults)
    text = "\n".join(show(line) for line in written.text.strip().splitlines())
    return (
        f'<tr><td class="told">{_picture(written, load_picture)}<p>{show(description.image)}</p>{told}</td>'
        f'<td class="text">{faults}{text}</td></tr>\n'
    )


def _picture(written: Written, load_picture: Callable[[str], Image.Image] | None) -> str:
    description = written.request.description
    if load_picture is None:
        return ""
    try:
        picture = load_picture(description.image)
    except InputError:
        return "<p>the picture cannot be shown</p>"
    return picture_tag(draw_boxes(picture, description.boxes), description.image, "jpeg")
