"""Guards words of a model that a terminal would take for its own."""

import io

from rich.console import Console

from llava_pl.evaluation.report import Report, ReportTable, build_report
from llava_pl.evaluation.report_terminal import print_report


def test_terminal(first, second):
    console = Console(width=140, file=io.StringIO(), record=True)
    print_report(build_report("ScienceQA [1]", [first, second]), console)
    text = console.export_text()
    assert text.startswith("ScienceQA [1]")
    assert "80.00 (50.00 to 92.86)" in text
    assert "were not asked alike" in text
    assert "hm|<i>" in text


def test_words_are_never_cut_off():
    """In a narrow terminal they are folded; a table without rows is its title."""
    words = ReportTable("Words", ("", "found"), (("samples", "word " * 30 + "last"),), has_numbers=False)
    console = Console(width=60, file=io.StringIO(), record=True, force_terminal=True)
    print_report(Report("T", (), (words, ReportTable("Nothing differs", ("a", "b"), ()))), console)
    text = console.export_text()
    assert text.count("word") == 30
    assert "last" in text
    assert text.rstrip().endswith("Nothing differs")


def test_a_pipe_gets_whole_lines():
    """Many columns would lose their heads in the 80 columns that a pipe is said to have."""
    heads = ("questions", "number", "model", "teacher", "complement", "judge")
    row = ("all", "4,241", *["90.51 (89.63 to 91.39)"] * 4)
    console = Console(width=80, file=io.StringIO(), record=True)
    print_report(Report("T", (), (ReportTable("Scores", heads, (row,)),)), console)
    lines = console.export_text().splitlines()
    assert any(all(head in line for head in heads) for line in lines)
    assert any(line.count("90.51 (89.63 to 91.39)") == 4 for line in lines)
