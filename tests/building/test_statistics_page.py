"""Guards how statistics are shown: a number under another file, a name that is taken for HTML."""

from llava_pl.building.statistics import measure_records
from llava_pl.building.statistics_page import as_rows, statistics_page
from llava_pl.types import Record, Turn

RECORDS = [
    Record("1", (Turn("human", "What?"), Turn("gpt", "A red ball.")), ("x/a.png",)),
    Record("2", (Turn("human", "What?"), Turn("gpt", ""), Turn("human", "Why?"), Turn("gpt", "That ball"))),
]


def test_rows_and_page():
    found = {"a <b>": measure_records(RECORDS), "none": measure_records([])}
    rows = {first: cells for first, *cells in as_rows(found)}
    assert rows["records"] == ["2", "0"]
    assert rows["words of an answer: least, 5 %, half, 95 %, most"] == ["0, 0, 2, 2, 3", ""]
    page = statistics_page(found)
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert "<td>ball</td><td class=number>2</td>" in page
    assert "<td>x</td><td class=number>1</td>" in page
