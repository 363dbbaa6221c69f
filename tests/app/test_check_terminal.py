"""Guards: a report that hides how many records are bad, or does not say which."""

import io

from rich.console import Console

from llava_pl.app.check import CheckReport
from llava_pl.app.check_terminal import print_report, progress_bar
from llava_pl.types import BadRecord


def shown(report):
    file = io.StringIO()
    print_report(report, Console(file=file, width=100, color_system=None))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_reasons_with_counts_and_first_examples():
    bad = [BadRecord(index, "a", "picture_missing", f"no [picture] {index}") for index in range(9)]
    lines = shown(CheckReport(14, [*bad, BadRecord(12, "b", "roles", "a\x1b" + "x" * 200)], repeated_ids={"a": 9}))
    table = [[cell.strip() for cell in line.strip("\u2502").split("\u2502")] for line in lines if "\u2502" in line]
    assert table == [["picture_missing", "9", "0, 1, 2, 3, 4, 5, 6, 7, ..."], ["roles", "1", "12"]]
    assert lines[-8:] == [
        "picture_missing",
        "  0: no [picture] 0",
        "  1: no [picture] 1",
        "  2: no [picture] 2",
        "roles",
        "  12: a\\x1b" + "x" * 200,
        "note: ids that occur more than once: 1, such as 'a' (9 times)",
        "10 of 14 records are bad",
    ]


def test_good_data_is_one_line():
    assert shown(CheckReport(1234)) == ["all 1,234 records are good"]


def test_progress_goes_to_the_error_stream(capsys):
    with progress_bar(3) as advance:
        advance(2)
        advance(1)
    output = capsys.readouterr()
    assert "3/3" in output.err
    assert output.out == ""
