"""Guards: a list that cannot be read or parsed, that takes seconds, or that says nothing of what is wrong."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pl.cli import main
from llava_pl.run_state import new_state, write_state

LOG = "step,train/loss,val/pope/f1\n9,2.5,\n19,nan,\n29,1.5,80.04\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run that was interrupted after 40 of 100 steps."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/a/1")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    (folder / "metrics.csv").write_text(LOG)
    state = new_state("fit", ["fit", "--config", "a.yaml"], folder, "align")
    write_state(folder, replace(state, status="interrupted", reason="SIGTERM", step=40, total_steps=100))
    return folder


def test_the_list(folder, capsys):
    assert main(["runs"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["Runs", "", "1 run in runs"]
    head, _, row = (line.split() for line in lines[4:7])
    assert head == ["run", "what", "state", "step", "loss", "scores", "age", "size"]
    assert row[:10] == ["a/1", "fit", "align", "interrupted", "40", "of", "100", "1.5", "pope/f1", "80.0"]
    assert lines[-2:] == [
        "runs/a/1: interrupted (SIGTERM)",
        "  resume: llava-pl fit --config a.yaml --run_dir runs/a/1 --ckpt_path last",
    ]


@pytest.mark.parametrize(
    ("columns", "heads", "below"),
    [
        (36, "run state step loss", ["  what: fit align; scores: pope/f1", "  80.0; age: 2 h; size: SIZE"]),
        (55, "run what state step loss age", ["  scores: pope/f1 80.0; size: SIZE"]),
        (80, "run what state step loss scores age size", []),
    ],
)
def test_a_terminal_gets_the_columns_that_it_has_room_for(folder, capsys, monkeypatch, columns, heads, below):
    for path in folder.rglob("*"):
        os.utime(path, (0, time.time() - 7300))
    for name, value in {"COLUMNS": str(columns), "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)  # a terminal, as far as rich knows
    assert main(["runs"]) == 0
    output = re.sub("\x1b[^m]*m", "", capsys.readouterr().out)
    lines = re.sub(r"[0-9]+ B\b", "SIZE", output).splitlines()
    assert lines[4].split() == heads.split()
    assert max(map(len, lines[:7])) <= columns
    assert lines[8:] == [
        "runs/a/1: interrupted (SIGTERM)",
        *below,
        "  resume: llava-pl fit --config a.yaml --run_dir runs/a/1 --ckpt_path last",
    ]


def test_as_json(folder, capsys):
    assert main(["runs", "runs/a/1", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["metrics"] == {"train/loss": 1.5, "val/pope/f1": 80.04}
    assert (run["folder"], run["state"], run["step"], run["resume"]) == (
        "runs/a/1", "interrupted", 40, "llava-pl fit --config a.yaml --run_dir runs/a/1 --ckpt_path last"
    )  # fmt: skip
    (folder / "metrics.csv").write_text("step,train/loss\n9,nan\n")
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["metrics"] == {"train/loss": None}


def test_a_run_without_a_checkpoint_says_so(folder, capsys):
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert main(["runs"]) == 0
    output = capsys.readouterr().out
    assert "interrupted before its first checkpoint" in output
    assert "resume" not in output


def test_no_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "no runs in runs; `llava-pl fit` makes them in runs/NAME/TIME\n"
    assert main(["runs", ".", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"


def test_damage_is_status_1(folder, capsys):
    (folder / "metrics.csv").write_text("\n")
    assert main(["runs"]) == 1
    assert "  runs/a/1/metrics.csv: expected the column 'step' in line 1, found none" in capsys.readouterr().out


def test_curves_in_the_folder_and_over_each_other(folder, capsys):
    assert main(["runs", "runs/a/1", "--curves"]) == 0
    assert capsys.readouterr().out == "wrote runs/a/1/curves.png\nwrote runs/a/1/curves.html\n"
    assert "<h1>a/1, stage align</h1>" in (folder / "curves.html").read_text()
    other = Path("runs/b/1")
    other.mkdir(parents=True)
    (other / "metrics.csv").write_text(LOG)
    assert main(["runs", "runs/a/1", "runs/b/1", "--curves", "both.html"]) == 0
    assert capsys.readouterr().out == "wrote both.html\n"
    assert "loss: a/1</td>" in Path("both.html").read_text()
    assert main(["runs", "runs/a/1", "runs/b/1", "runs/a/1", "--curves", "both.html"]) == 0
    assert "<h1>Curves of runs/a/1, runs/b/1</h1>" in Path("both.html").read_text()
    capsys.readouterr()
    assert main(["runs", "runs/a/1", "runs/../runs/a/1", "--curves"]) == 0
    assert capsys.readouterr().out == "wrote runs/a/1/curves.png\nwrote runs/a/1/curves.html\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "runs: nowhere: expected a folder of runs, found nothing; check the path"),
        (["runs/a/1/metrics.csv"], "runs: runs/a/1/metrics.csv: expected a folder of runs, found a file; "
         "check the path"),
        (["--curves"], "runs: runs: --curves: expected the folder of a run, runs/NAME/TIME; give one"),
        (["runs/a/1", "--curves", "no/x.png"], "--curves: no/x.png: expected a file in a folder "
         "that exists, found no folder no"),
        (["runs/a/1", "--curves", "x"], "--curves: x: expected a name that ends in .html or .png; choose one of these"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(folder, capsys, words, message):
    assert main(["runs", *words]) == 2
    assert capsys.readouterr().err == f"llava-pl: error: {message}\n"


def test_nothing_to_draw_is_one_line(folder, capsys):
    (folder / "metrics.csv").write_text("step,train/loss\n9,2.0\n")
    assert main(["runs", "runs/a/1", "--curves"]) == 2
    assert "expected a metric with two points, found none" in capsys.readouterr().err


def test_a_list_imports_nothing_heavy(folder):
    code = (
        "import sys\nfrom llava_pl.cli import main\nmain(['runs'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'matplotlib', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
