"""Guards `llava-pl eval diff`: its options and its errors; ``test_run_diff.py`` compares."""

import pytest

from llava_pl.cli import main


@pytest.fixture
def runs(tmp_path):
    for name, rate in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"rate: {rate}\n")
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_tables(runs, tmp_path, capsys):
    assert main(["eval", "diff", *runs, "--markdown", str(tmp_path / "out.md")]) == 0
    assert "Settings that differ" in capsys.readouterr().out
    assert "| rate | 1 | 2 |" in (tmp_path / "out.md").read_text()


def test_files_of_a_run_are_not_written_over(runs, capsys):
    assert main(["eval", "diff", *runs, "--markdown", f"{runs[0]}/config.yaml"]) == 2
    assert "--markdown: " in capsys.readouterr().err


def test_wrong_input_gets_one_line(runs, tmp_path, capsys):
    assert main(["eval", "diff", runs[0], str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert "no config.yaml" in error
    assert error.count("\n") == 1
