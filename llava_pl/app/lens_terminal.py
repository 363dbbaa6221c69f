"""A `View` on the terminal: a line for each stretch, in words and in colour."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_pl.app.lens import COLOURS, MEANINGS, Stretch, View, visible


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
    for stretch in view.stretches:
        table.add_row(stretch.span, Text(stretch.kind, style=_style(stretch.kind, 0)), _text(stretch))
    if view.num_cut:
        style = _style("cut", 0)
        table.add_row("", Text("cut", style=style), Text(f"[cut: {view.num_cut:,} tokens]", style=style))
    console.print(Text(f"record {view.index}, id {visible(view.id)!r}: {view.summary}"), highlight=False)
    console.print(table, highlight=False)
    kinds = {stretch.kind for stretch in view.stretches} | ({"cut"} if view.num_cut else set())
    legend = [Text(f"{kind} = {MEANINGS[kind]}", style=_style(kind, 0)) for kind in MEANINGS if kind in kinds]
    console.print(Text("  ").join(legend), highlight=False)
    for warning in view.warnings:
        console.print(Text(warning, style="bold red"), highlight=False)


def _text(stretch: Stretch) -> Text:
    if stretch.kind == "image":
        return Text(f"[image: {len(stretch.tokens):,} tokens]", style=_style("image", 0))
    text = Text()
    for number, token in enumerate(stretch.tokens):
        mark = " bold underline" if token.is_special else ""
        text.append(token.text, style=_style(stretch.kind, number % 2) + mark)
    return text


def _style(kind: str, shade: int) -> str:
    """Return rich's name of a style; text that is only read keeps the terminal's own colours."""
    return "default" if kind == "read" else f"black on {COLOURS[kind][shade]}"
