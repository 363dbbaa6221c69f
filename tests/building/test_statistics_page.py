"""Guards how statistics are shown: a number under another file, a name that is taken for HTML."""

from llava_pl.building.statistics import measure_records
from llava_pl.building.statistics_page import as_quantile_rows, as_rows, draw_lengths, statistics_page
from llava_pl.types import Record, Turn

RECORDS = [
    Record("1", (Turn("human", "What?"), Turn("gpt", "A red ball.")), ("x/a.png",)),
    Record("2", (Turn("human", "What?"), Turn("gpt", ""), Turn("human", "Why?"), Turn("gpt", "That ball"))),
]


def test_rows_and_page():
    found = {"a <b>": measure_records(RECORDS), "none": measure_records([])}
    rows = {first: cells for first, *cells in as_rows(found)}
    assert rows["records"] == ["2", "0"]
    assert as_quantile_rows(found)[-1] == ("words of an answer", "a <b>", "0", "0", "2", "2", "3")
    assert len(as_quantile_rows(found)) == 3
    page = statistics_page(found)
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert "<td>ball</td><td class=number>2</td>" in page
    assert "<td>x</td><td class=number>1</td>" in page
    assert '<th scope="col">95 %</th>' in page
    assert "<td>words of an answer</td><td>a &lt;b&gt;</td><td class=number>0</td>" in page


def test_lines_say_what_they_are_and_are_all_seen():
    one = measure_records(RECORDS)
    axes = draw_lengths({"a": one, "b": one, "c\x1b": one}).axes
    assert [axis.get_xlabel() for axis in axes] == [
        "questions of a record",
        "words of a question",
        "words of an answer",
    ]
    assert [axis.get_ylabel() for axis in axes] == ["share of records", "share of questions", "share of answers"]
    for axis in axes:
        styles = {(line.get_linestyle(), line.get_linewidth()) for line in axis.patches}
        assert len(styles) == 3
    assert draw_lengths({"none": measure_records([]), "nothing": measure_records([])}).legends == []
