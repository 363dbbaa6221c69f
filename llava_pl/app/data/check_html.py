"""A check as a page for the browser: each reason with examples and, where they can be read, their pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from llava_pl.app.data.check import CheckReport
from llava_pl.html_page import page, picture_tag, show
from llava_pl.types import BadRecord, InputError

NUM_EXAMPLES = 20
NUM_PICTURES = 4
THUMBNAIL = (96, 96)


def report_page(report: CheckReport, load_picture: Callable[[str], Image.Image]) -> str:
    """Return what a check found as one page of HTML.

    Args:
        report: What to show.
        load_picture: Returns a picture of a record by its file name, or raises InputError.
    """
    notes = "".join(f"<li>{show(note)}</li>\n" for note in report.notes)
    body = f'<p class="{"warning" if report.bad else "good"}">{show(report.summary)}</p>\n'
    body += f"<ul>\n{notes}</ul>\n" if notes else ""
    for reason, bad in report.by_reason().items():
        rows = "".join(_row(entry, load_picture) for entry in bad[:NUM_EXAMPLES])
        shown = f", the first {NUM_EXAMPLES} of them" if len(bad) > NUM_EXAMPLES else ""
        body += (
            f"<h2>{show(reason)}: {len(bad):,} records{shown}</h2>\n<table>\n"
            '<thead><tr><th scope="col">source</th><th scope="col">record</th><th scope="col">id</th>'
            '<th scope="col">what is wrong</th><th scope="col">pictures</th></tr></thead>\n'
            f"<tbody>\n{rows}</tbody>\n</table>\n"
        )
    return page("Check of the records", body)


def _row(entry: BadRecord, load_picture: Callable[[str], Image.Image]) -> str:
    return (
        f'<tr><td>{show(entry.source)}</td><td class="number">{entry.index}</td><td>{show(entry.id)}</td>'
        f'<td class="text">{show(entry.message)}</td>'
        f"<td>{_pictures(entry.images, load_picture)}</td></tr>\n"
    )


def _pictures(names: Sequence[str], load_picture: Callable[[str], Image.Image]) -> str:
    tags = []
    for name in names[:NUM_PICTURES]:
        try:
            picture = load_picture(name)
        except InputError:
            tags.append(f"<p>{show(name)}: cannot be shown</p>")
        else:
            picture.thumbnail(THUMBNAIL)
            tags.append(picture_tag(picture, name))
    if len(names) > NUM_PICTURES:
        tags.append(f"<p>and {len(names) - NUM_PICTURES:,} more</p>")
    return "".join(tags)
