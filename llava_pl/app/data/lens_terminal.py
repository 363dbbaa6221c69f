"""A `View` on the terminal: a line for each stretch, in words and in colour."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_pl.app.data.lens import View
from llava_pl.app.data.stretches import MEANINGS, Stretch
from llava_pl.visible import visible

STYLES = {
    "read": ("default", "default"),
    "learn": ("black on green", "black on bright_green"),
    "image": ("black on cyan", "black on cyan"),
    "wrong": ("bold white on red", "bold bright_white on red"),
    "cut": ("black on yellow", "black on yellow"),
}
"""Two styles of each kind, for every other token, of the sixteen colours that every terminal has."""


def print_view(view: View, console: Console | None = None) -> None:
    """Print what training sees of a record.

    Args:
        view: What to show.
        console: Where; the terminal by default.
    """
    console = console or Console()
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("positions", justify="right", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("text", overflow="fold")
    for number, stretch in enumerate(view.stretches):
        if number in view.boundaries:
            table.add_row("", "", Text(view.boundaries[number], style="bold"))
        table.add_row(stretch.span, Text(stretch.kind, style=STYLES[stretch.kind][0]), _text(stretch))
    if view.num_cut:
        style = STYLES["cut"][0]
        table.add_row("", Text("cut", style=style), Text(f"[cut: {view.num_cut:,} tokens]", style=style))
    title = f"record {view.index} of {visible(view.source)}, id {view.id!r}"
    console.print(Text(f"{title}: {view.summary}"), highlight=False, soft_wrap=True)
    console.print(table, highlight=False)
    kinds = {stretch.kind for stretch in view.stretches} | ({"cut"} if view.num_cut else set())
    legend = [Text(f"{kind} = {MEANINGS[kind]}", style=STYLES[kind][0]) for kind in MEANINGS if kind in kinds]
    console.print(Text("  ").join(legend), highlight=False)
    for warning in view.warnings:
        console.print(Text(warning, style="bold red"), highlight=False)


def _text(stretch: Stretch) -> Text:
    if stretch.kind == "image":
        return Text(f"[image: {len(stretch.tokens):,} tokens]", style=STYLES["image"][0])
    text = Text()
    for number, token in enumerate(stretch.tokens):
        mark = " bold underline" if token.is_special else ""
        text.append(token.text, style=STYLES[stretch.kind][number % 2] + mark)
    return text
