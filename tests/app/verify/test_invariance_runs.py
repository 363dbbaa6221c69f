"""Guards: a run that takes itself for a part of another, goes on alone, or fails without a word."""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from llava_pl.app.verify import invariance_runs
from llava_pl.app.verify.invariance_plan import InvariancePlan
from llava_pl.app.verify.invariance_runs import run_split
from llava_pl.app.verify.invariance_splits import Split, Validation
from llava_pl.types import InputError

TWO = Split(2, 1, 4)
PLAN = InvariancePlan((TWO,), 4, Validation(0, 4), 1e-5, "float32", (), {"trainer": {"logger": None}})


def test_a_run_is_fit_with_the_plan_on_top(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(invariance_runs, "_launch", lambda *arguments: called.append(arguments) or 0)
    run_dir = run_split(["--config", "own.yaml", "--trainer.devices", "8"], PLAN, TWO, tmp_path)
    overlay = str(tmp_path / "2x1x4" / "verify.yaml")
    words = ["fit", "--config", "own.yaml", "--trainer.devices", "8", "--config", overlay]
    assert called == [(words, run_dir / "output.txt")]
    assert yaml.safe_load((run_dir / "verify.yaml").read_text()) == PLAN.settings(TWO, run_dir)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("Traceback\nllava-pl: error: data.records: no such file\nlate\n\n", "data.records: no such file"),
        ("Traceback\nRuntimeError: out of memory\n", "RuntimeError: out of memory"),
        ("", "it said nothing"),
    ],
)
def test_a_run_that_fails_is_one_line(tmp_path, monkeypatch, output, line):
    def fail(words, path):
        path.write_text(output)
        return 3

    monkeypatch.setattr(invariance_runs, "_launch", fail)
    with pytest.raises(InputError) as error:
        run_split([], PLAN, TWO, tmp_path)
    place = tmp_path / "2x1x4" / "output.txt"
    assert str(error.value) == f"verify: the run of 2 ranks x 1 x 4 ended with status 3: {line}; see {place}"


def test_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LLAVA_PL_OTHER", "kept")
    code = "import os; print([os.environ.get(n) for n in ('LOCAL_RANK', 'LLAVA_PL_OTHER')]); raise SystemExit(7)"
    monkeypatch.setattr(invariance_runs, "COMMAND", (sys.executable, "-c", code))
    assert invariance_runs._launch(["fit"], tmp_path / "output.txt") == 7
    assert (tmp_path / "output.txt").read_text() == "[None, 'kept']\n"


def test_a_run_ends_with_us(tmp_path):
    """SIGTERM, as a cluster sends it."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom llava_pl.app.verify import invariance_runs\n"
        "from llava_pl.app.carry_commands import orderly_end\n"
        "own = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        "invariance_runs.COMMAND = (sys.executable, '-c', own)\n"
        f"with orderly_end():\n    invariance_runs._launch([], Path({str(tmp_path / 'output.txt')!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not ((output := tmp_path / "output.txt").exists() and output.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(output.read_text()), 0)
