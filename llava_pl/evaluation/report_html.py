"""A report as one page without scripts or links: tables, bars with their intervals, examples with their pictures."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase

from PIL import Image

from llava_pl.evaluation.question_file import plain_text
from llava_pl.evaluation.report import Example, Report, ReportTable, show_names, show_score
from llava_pl.evaluation.scores import ScoreRow
from llava_pl.html_page import page, picture_tag, show
from llava_pl.types import InputError, Question

LoadPicture = Callable[[Question], Image.Image | None]
"""Returns the picture of a question, None if it has none, or raises InputError."""

THUMBNAIL = (256, 256)
STYLE = """
.bar { background: #3b6ea5; height: .6rem; }
.track { position: relative; background: #e8e8e8; min-width: 14rem; }
.interval { position: absolute; top: .2rem; height: .2rem; background: #111; }
.example { display: inline-block; vertical-align: top; width: 18rem; margin: .5rem .5rem 0 0; padding: .5rem;
  border: 1px solid #767676; border-top: .4rem solid; overflow-wrap: anywhere; }
.right { border-top-color: #1b7f3b; }
.partly { border-top-color: #d98c2b; }
.wrong { border-top-color: #b3261e; }
.example p { margin: .3rem 0; white-space: pre-wrap; }
"""


def report_html(report: Report, load_picture: LoadPicture) -> str:
    """Return a report as a page.

    Args:
        report: What to show.
        load_picture: For the examples.
    """
    notes = "".join(f'<p class="warning">{show(note)}</p>\n' for note in report.notes)
    tables = "".join(map(_table, report.tables))
    return page(report.title, notes + _bars(report.bars) + tables + _examples(report, load_picture), STYLE)


def _table(table: ReportTable) -> str:
    heads = "".join(f'<th scope="col">{show(column)}</th>' for column in table.columns)
    kinds = ["number" if table.is_number(place) else "text" for place in range(len(table.columns))]
    rows = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{show(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        + "</tr>\n"
        for row in table.rows
    )
    body = f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>"
    return f"<h2>{show(table.title)}</h2>\n<table>\n{body}\n</table>\n"


def _bars(rows: tuple[ScoreRow, ...]) -> str:
    """Return a table of bars for each metric."""
    by_metric: dict[str, list[ScoreRow]] = {}
    for row in rows:
        by_metric.setdefault(row.name.partition("/")[0], []).append(row)
    return "".join(f"<h2>Bars of {show(metric)}</h2>\n{_bars_of(own)}" for metric, own in by_metric.items())


def _bars_of(rows: list[ScoreRow]) -> str:
    groups = [row.value or 0 for row in rows if "/" in row.name]
    if groups and (rows[0].value or 0) > max(groups):
        rows = rows[1:]  # a sum of its groups would leave no room for them
    # Of scores beyond 100 the largest fills the track.
    longest = max(100.0, *(row.value or 0 for row in rows))
    names = show_names([row.name for row in rows])
    lines = "".join(_bar(name, row, longest) for name, row in zip(names, rows, strict=True))
    return f"<table>\n<tbody>\n{lines}</tbody>\n</table>\n"


def _bar(name: str, row: ScoreRow, longest: float) -> str:
    def share(value: float) -> str:
        return f"{100 * min(value, longest) / longest:.2f}%"

    interval = ""
    if row.interval is not None:
        left, width = share(row.interval.low), share(row.interval.high - row.interval.low)
        interval = f'<div class="interval" style="left: {left}; width: {width}"></div>'
    track = f'<div class="track"><div class="bar" style="width: {share(row.value or 0)}"></div>{interval}</div>'
    score = show(show_score(row.value, row.interval))
    return f'<tr><td>{show(name)}</td><td class="number">{score}</td><td>{track}</td></tr>\n'


def _examples(report: Report, load_picture: LoadPicture) -> str:
    if not report.examples:
        return ""
    cards = "".join(_card(example, load_picture) for example in report.examples)
    return f"<h2>Examples</h2>\n{cards}\n"


def _card(example: Example, load_picture: LoadPicture) -> str:
    question = example.question
    try:
        picture = load_picture(question)
    except InputError:
        shown = "<p>(the picture cannot be shown)</p>"
    else:
        shown = ""
        if picture is not None:
            picture.thumbnail(THUMBNAIL)
            shown = picture_tag(picture, f"picture of question {question.id}")
    prompt = plain_text(question)
    read = "could not be read" if example.reading is None else f"read as {example.reading}"
    outcome = f"partly right ({example.credit:.2f})" if example.outcome == "partly" else example.outcome
    right = "" if example.credit is None else _right_answer(question)
    return (
        f'<div class="example {example.outcome}">{shown}'
        f"<p>{show_lines(prompt)}</p><p><b>{show_lines(example.text)}</b></p>"
        f"<p>{outcome}: {show(read)}{show(f', expected {right}' if right else '')}</p></div>\n"
    )


def show_lines(text: str) -> str:
    """Return plain text as HTML with its line breaks."""
    return "\n".join(map(show, text.split("\n")))


def _right_answer(question: Question) -> str:
    if question.choices:
        return ascii_uppercase[question.answer]
    return " or ".join(dict.fromkeys(question.references))
