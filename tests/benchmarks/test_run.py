"""Risk: a row that was measured for an hour is lost, or stands beside another benchmark's."""

import pytest
from harness import Ratio
from report import Row
from run import put

OURS, THEIRS = Row("B6 12 %", "ours", "1 MiB"), Row("B6 12 %", "all rows", "2 MiB", Ratio(2.0, 2.0, 2.0))


def test_ours_stands_first_in_its_own_benchmark():
    table = []
    few = Row("B6 2.5 %", "ours", "3 MiB"), Row("B6 2.5 %", "all rows", "9 MiB", Ratio(3.0, 3.0, 3.0))
    step = Row("B4 step", "TRL", "5 s", Ratio(2.5, 2.0, 3.0)), Row("B4 step", "ours", "2 s")
    for row in (*few, OURS, THEIRS, *step):
        table = put(row, table)
    assert table == [step[1], step[0], *few, OURS, THEIRS]


def test_a_row_is_replaced_where_it_stands():
    again = Row("B6 12 %", "all rows", "4 MiB", Ratio(4.0, 4.0, 4.0))
    assert put(again, [OURS, THEIRS]) == [OURS, again]


@pytest.mark.parametrize("earlier", [THEIRS, Row("B6 12 %", "all rows", note="skipped: older")])
def test_a_note_replaces_notes_alone(earlier):
    note = Row("B6 12 %", "all rows", note="skipped")
    assert put(note, [OURS, earlier]) == [OURS, note if earlier.note else earlier]
