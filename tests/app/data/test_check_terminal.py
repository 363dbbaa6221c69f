"""Guards: a report that hides how many records are bad, or does not say which."""

import io

from rich.console import Console

from llava_pl.app.data.check import CheckReport
from llava_pl.app.data.check_terminal import print_report
from llava_pl.types import BadRecord


def shown(report):
    file = io.StringIO()
    print_report(report, Console(file=file, width=100, color_system=None))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_reasons_with_counts_and_first_examples():
    bad = [BadRecord(index, "a", "picture_missing", f"no [picture] {index}", source="[x]") for index in range(9)]
    bad.append(BadRecord(12, "b", "roles", "a\x1b" + "x" * 200, source="y"))
    lines = shown(CheckReport({"[x]": 10, "y": 4}, bad, repeated_ids={"a": 9}))
    table = [[cell.strip() for cell in line.strip("\u2502").split("\u2502")] for line in lines if "\u2502" in line]
    assert table == [["picture_missing", "9", "[x] 0, 1, 2, 3, 4, 5, 6, 7, ..."], ["roles", "1", "y 12"]]
    assert lines[-10:] == [
        "picture_missing",
        "  [x] 0: no [picture] 0",
        "  [x] 1: no [picture] 1",
        "  [x] 2: no [picture] 2",
        "roles",
        "  y 12: a\\x1b" + "x" * 200,
        "note: [x]: 9 of 10 are bad",
        "note: y: 1 of 4 are bad",
        "note: ids that occur more than once in a source: 1, such as 'a' (9 times)",
        "10 of 14 records are bad",
    ]


def test_good_data_is_one_line():
    assert shown(CheckReport({"x": 1234})) == ["all 1,234 records are good"]
