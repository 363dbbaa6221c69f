"""Guards: a plan that starts something, needs a GPU, or answers help only after seconds of imports."""

import json
import subprocess
import sys
from contextlib import suppress

import pytest

from llava_pl.cli import main


@pytest.fixture
def words(zoo):
    """A plan of a run on the zoo's good model and records that are not there."""
    records = ["--data.init_args.records", str(zoo / "nowhere.json"), "--device_memory_gib", "0.1"]
    return ["plan", "--config", str(zoo / "config.yaml"), *records]


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom llava_pl.cli import main\ntry: main(['plan', '--help'])\nexcept SystemExit as stop: "
        "print(stop.code)\nprint('torch' in sys.modules)"
    )
    lines = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert lines[0] == "usage: llava-pl plan --config FILE [--config FILE ...] [options]"
    assert lines[-2:] == ["0", "False"]


def test_without_words(capsys):
    assert main(["plan"]) == 2
    assert "--device_memory_gib" in capsys.readouterr().out


def test_tables(words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main([*words, "--num_samples", "100", "--trainer.devices", "1"]) == 0
    text = capsys.readouterr().out
    for piece in ("stage finetune", "optimizer states", "samples at once that fit", "steps of the run", "TFLOPS"):
        assert piece in text
    assert "data: the records could not be read" in text
    assert sorted(tmp_path.rglob("*")) == before  # no folder of a run


def test_json_and_status(words, capsys, tmp_path):
    given = [*words, "--trainer.devices", "1", "--json"]
    assert main([*given, "-"]) == 0
    shown = capsys.readouterr().out
    assert main([*given, str(tmp_path / "plan.json")]) == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan == json.loads(shown)
    assert plan["steps"] is None
    assert plan["memory"]["peak"] > plan["memory"]["weights"] > 0
    assert main([*words, "--trainer.devices", "auto", "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["contradictions"][0].startswith("trainer.devices: found auto")


def test_broken_records_are_said(zoo, capsys):
    assert main(["plan", "--config", str(zoo / "config.yaml"), "--trainer.devices", "1"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("records cannot be learned from") == 1
    assert "contradiction: records: " in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mfu", "2"], "plan: expected device_memory_gib and device_tflops above 0, mfu in (0, 1] and headroom in"),
        (["--model.decoder.path", "/nowhere"], "decoder.path: /nowhere: expected a model folder or hub name"),
        (["--mfuu", "0.5"], "--mfuu: no such option"),
        (["--mean_length", "1e9"], "--mean_length: expected at most data.max_length, "),
        (["--json", "/nowhere/plan.json"], "--json: /nowhere/plan.json: expected a file in a folder that exists"),
        (["--json", __file__], "expected a new file or an earlier plan, found another file"),
    ],
)
def test_errors_are_one_line(words, capsys, more, message):
    with suppress(SystemExit):
        assert main([*words, *more]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llava-pl: error:")]
    assert message in line
