"""Risk: a table that says another way was measured than the one that was, or that loses a peer without a word."""

import pytest
from harness import Measured, Ratio
from report import BEGIN, END, Row, make_table, read_around, read_rows, row_of, write_report

ROWS = [
    Row("B4 step", "ours", "2.00 ms/token", peak_mib=1000.4),
    Row("B4 step", "TRL", "5.00 ms/token", Ratio(2.5, 2.25, 3.0), Ratio(2.0, 1.5, 2.5), 3000.0, 1.7),
    Row("B4 step", "original", note="skipped: no checkout"),
]
TABLE = """\
| benchmark | way | median | / ours (95 %) | CPU time / ours | most memory, MiB | target |
| --- | --- | --- | --- | --- | --- | --- |
| B4 step | ours | 2.00 ms/token | 1 |  | 1000 |  |
| B4 step | TRL | 5.00 ms/token | 2.50 (2.25 to 3.00) | 2.00 | 3000 | >= 1.7 |
| B4 step | original | skipped: no checkout |  |  |  |  |"""


def test_table():
    assert make_table(ROWS) == TABLE


def test_row_compares_wall_and_cpu_time():
    ours = [Measured(1.0, 4.0, 100.0), Measured(2.0, 4.0, 300.0), Measured(3.0, 4.0, 200.0)]
    theirs = [Measured(4.0, 6.0, 7.0), Measured(8.0, 6.0, 9.0), Measured(12.0, 6.0, 8.0)]
    row = row_of("B", "theirs", "8 s", theirs, ours, target=2.0)
    assert row == Row("B", "theirs", "8 s", Ratio(4.0, 4.0, 4.0), Ratio(1.5, 1.5, 1.5), 8.0, 2.0)
    assert row_of("B", "ours", "2 s", ours) == Row("B", "ours", "2 s", peak_mib=200.0)


def test_report_replaces_what_stands_between_the_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_report(ROWS, "a machine.", tmp_path / "results", readme)
    assert (
        readme.read_text() == f"before\n{BEGIN}\na machine.\n\n{TABLE}\n\n![bars](results/figure.svg)\n{END}\nafter\n"
    )
    assert (tmp_path / "results" / "figure.svg").read_text().count("TRL") == 1


def test_readme_without_marks_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("text\n")
    with pytest.raises(ValueError, match="expected the marks"):
        read_around(tmp_path / "README.md")


def test_rows_that_were_written_are_read_again(tmp_path):
    assert read_rows(tmp_path, "a machine.") == []
    write_report(ROWS, "a machine.", tmp_path)
    assert read_rows(tmp_path, "a machine.") == ROWS


def test_rows_of_another_machine_are_refused(tmp_path):
    write_report(ROWS, "a machine.", tmp_path)
    with pytest.raises(ValueError, match=r"measured elsewhere: a machine. Here: another."):
        read_rows(tmp_path, "another.")
