"""What became of captions, as a page: counts, how often noun phrases are there before and after, and some pairs.

In: a `Choice`. Out: a page of HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llava_pl.building.alignment import Choice
from llava_pl.building.captions import Caption
from llava_pl.curves.figure import as_svg
from llava_pl.data.picture_files import decode_image
from llava_pl.html_page import page, picture_tag, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_PHRASES = 15
"""Of the most frequent noun phrases, how many are listed."""

THUMBNAIL = (160, 160)

EXPLANATION = (
    "A caption counts for all phrases in it. Of a frequent phrase more captions can stay than are drawn for it: those "
    "that were drawn for its rarer neighbours."
)


def alignment_page(
    counts: Mapping[str, int], settings: Mapping[str, object], choice: Choice, examples: Sequence[Caption]
) -> str:
    """Return the page.

    Args:
        counts: Of captions and phrases, by what is counted.
        settings: What was asked for, by name.
        choice: What was kept.
        examples: Captions that were kept, shown with their pictures.
    """
    shown = {name: f"{count:,}" for name, count in counts.items()}
    body = _table(shown) + "<h2>Settings</h2>\n" + _table({name: str(value) for name, value in settings.items()})
    if choice.phrases:
        body += f"<h2>Noun phrases</h2>\n<p>{show(EXPLANATION)}</p>\n"
        body += f"<figure>{as_svg(draw_phrases(choice))}</figure>\n{_list_phrases(choice)}"
    body += "<h2>Some of the pairs</h2>\n" + "".join(map(_figure, examples))
    return page("Captions to alignment pairs", body, "svg { max-width: 100%; height: auto; }")


def draw_phrases(choice: Choice) -> Figure:
    """Return how many captions have each noun phrase, the most frequent first, before and after (as LLaVA's figure)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    for label, counts, colour in (("before", choice.before, "#5f6b73"), ("after", choice.after, "#c8553d")):
        ordered = np.sort(counts[counts > 0])[::-1]
        if not len(ordered):
            continue
        # As many points as can be seen on a logarithmic axis.
        places = np.unique(np.geomspace(1, len(ordered), 400).astype(np.int64))
        text = f"{label}: {len(ordered):,} phrases in {int(ordered.sum()):,} places"
        axis.plot(places, ordered[places - 1], color=colour, label=text)
    axis.set(xscale="log", yscale="log", xlabel="noun phrases, most frequent first", ylabel="captions that have it")
    axis.grid(visible=True, color="#e4e4e4", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    return figure


def _table(rows: Mapping[str, str]) -> str:
    cells = (f'<tr><td>{show(name)}</td><td class="number">{show(value)}</td></tr>\n' for name, value in rows.items())
    return f"<table>\n<tbody>\n{''.join(cells)}</tbody>\n</table>\n"


def _list_phrases(choice: Choice) -> str:
    # Equal counts in the order of their texts, not in that of captions.
    most = sorted(range(len(choice.phrases)), key=lambda i: (-choice.before[i], choice.phrases[i]))[:NUM_PHRASES]
    rows = "".join(
        f'<tr><td>{show(choice.phrases[i])}</td><td class="number">{choice.before[i]:,}</td>'
        f'<td class="number">{choice.after[i]:,}</td></tr>\n'
        for i in most
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("most frequent", "captions before", "after"))
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"


def _figure(caption: Caption) -> str:
    picture = decode_image(caption.read_picture(), caption.image)
    picture.thumbnail(THUMBNAIL)
    return f"<figure>{picture_tag(picture, caption.image)}<figcaption>{show(caption.text)}</figcaption></figure>\n"
