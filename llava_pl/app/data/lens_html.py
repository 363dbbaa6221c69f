"""A `View` as a page for the browser: the same lines and colours as on the terminal, and the pictures themselves."""

from __future__ import annotations

from llava_pl.app.data.lens import View
from llava_pl.app.data.stretches import MEANINGS, Stretch, Token
from llava_pl.html_page import page, picture_tag, show

COLOURS = {
    "read": ("#ffffff", "#f1f1f1"),
    "learn": ("#b7e4c7", "#8fd3a8"),
    "image": ("#bfeef5", "#bfeef5"),
    "wrong": ("#ffb3b3", "#ff9999"),
    "cut": ("#ffe08a", "#ffe08a"),
}
"""Two backgrounds of each kind, for every other token, in the hues of the terminal's view."""

STYLE = "\n".join(
    f".{kind} {{ background: {first}; }} .{kind}.odd {{ background: {second}; }}"
    for kind, (first, second) in COLOURS.items()
) + (
    "\n.learn { text-decoration: underline; text-underline-offset: .2em; } .wrong { outline: 2px solid #8b0000; }"
    "\n.special { font-weight: bold; border: 1px solid #111; }\nspan.key { padding: 0 .4rem; margin-right: .8rem; }\n"
)


def view_page(view: View) -> str:
    """Return what training sees of a record as one page of HTML."""
    warnings = "".join(f'<p class="warning">{show(warning)}</p>\n' for warning in view.warnings)
    legend = "".join(f'<span class="key {kind}">{kind}: {show(meaning)}</span>' for kind, meaning in MEANINGS.items())
    rows = ""
    for number, stretch in enumerate(view.stretches):
        if number in view.boundaries:
            rows += f'<tr><th colspan="3" scope="rowgroup">{show(view.boundaries[number])}</th></tr>\n'
        rows += _row(stretch.span, stretch.kind, _text(stretch))
    if view.num_cut:
        rows += _row("", "cut", f'<span class="cut">[cut: {view.num_cut:,} tokens]</span>')
    pictures = "".join(
        f"<figure>{picture_tag(picture, f'{name} as the vision encoder sees it')}"
        f"<figcaption>{name}, {picture.width} x {picture.height}</figcaption></figure>\n"
        for name, picture in zip(view.picture_names, view.pictures, strict=True)
    )
    heading = "<h2>Pictures, as the vision encoder sees them</h2>\n" if pictures else ""
    body = (
        f"<p>{show(view.summary)}</p>\n{warnings}<p>{legend}</p>\n"
        f"<table>\n<caption>Every position, in order; a token's id is shown when the pointer rests on it.</caption>\n"
        '<thead><tr><th scope="col">positions</th><th scope="col">what</th><th scope="col">text</th></tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>\n{heading}{pictures}"
    )
    return page(f"Record {view.index} of {view.source}, id {view.id!r}, as training sees it", body, STYLE)


def _row(span: str, kind: str, text: str) -> str:
    head = f'<td class="number">{span}</td><td><span class="{kind}">{kind}</span></td>'
    return f'<tr>{head}<td class="text">{text}</td></tr>\n'


def _text(stretch: Stretch) -> str:
    if stretch.kind == "image":
        return f'<span class="image">[image: {len(stretch.tokens):,} tokens]</span>'
    return "".join(_span(token, is_odd=number % 2 == 1) for number, token in enumerate(stretch.tokens))


def _span(token: Token, *, is_odd: bool) -> str:
    names = [token.kind, *(["odd"] if is_odd else []), *(["special"] if token.is_special else [])]
    return f'<span class="{" ".join(names)}" title="position {token.position}, id {token.id}">{show(token.text)}</span>'
