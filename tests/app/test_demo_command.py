"""Guards: options of the demo that are taken although they are wrong, or do not arrive."""

from pathlib import Path

import pytest

from llava_pl.cli import main
from llava_pl.demo import run


def test_options_arrive(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(run, "run_demo", lambda folder, seed: asked.append((folder, seed)))
    assert main(["demo"]) == 0
    assert main(["demo", "--folder", str(tmp_path), "--seed", "3"]) == 0
    assert asked == [(Path("runs/demo"), 0), (tmp_path, 3)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "--seed: expected at least 0, found -1"),
        (["--folder", __file__], f"--folder: {__file__}: expected a folder or a new name, found a file"),
    ],
)
def test_wrong_options_are_one_line(words, said, capsys):
    assert main(["demo", *words]) == 2
    assert capsys.readouterr().err == f"llava-pl: error: {said}\n"


def test_without_configs_it_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "CONFIGS", tmp_path / "none")
    assert main(["demo", "--folder", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.endswith("run the demo from a checkout of the repository\n")
