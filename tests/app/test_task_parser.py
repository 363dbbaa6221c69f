"""Guards wrong options of a task: one line and status 2, never a page of usage."""

import pytest

from llava_pl.app.task_parser import TaskParser
from llava_pl.evaluation.scienceqa import ScienceQA


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rot", "x"], "--rot: no such option; did you mean root?"),
        ([], "root: required, found nothing"),
        (
            ["--root", "x", "--parser", "mine"],
            "--parser: expected one of llava, strict, lenient, lmms-eval, found mine",
        ),
    ],
)
def test_a_wrong_option_is_one_line(capsys, monkeypatch, words, message):
    parser = TaskParser(prog="llava-pl eval scienceqa", allow_abbrev=False)
    parser.add_class_arguments(ScienceQA)
    monkeypatch.setattr("sys.argv", ["llava-pl", "eval", "scienceqa", *words])
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"llava-pl: error: {message}")
    assert error.count("\n") == 1
