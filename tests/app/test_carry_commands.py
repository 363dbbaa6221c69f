"""Guards: a command that writes the wrong form, over something, or half; errors that are pages long."""

import json
import os
import signal
import subprocess
import sys

import pytest

from llava_pl.app.carry_commands import orderly_end
from llava_pl.cli import main


@pytest.fixture
def golden(golden_path):
    return str(golden_path / "model" / "llava-mlp2x")


@pytest.fixture
def tokenizer(tiny_parts):
    return str(tiny_parts / "decoder")


def test_import_export_and_certify(golden, tokenizer, tmp_path, capsys):
    ours, hf, theirs = (str(tmp_path / name) for name in ("ours", "hf", "theirs"))
    assert main(["import", golden, ours, "--tokenizer", tokenizer]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"reading {golden}"
    assert lines[1:3] == [f"writing {ours} (artifact)", "reading it back"]
    assert lines[3].startswith("text        logits differ by at most 0 of ")
    assert lines[-1] == f"wrote {ours}"
    assert main(["export", ours, hf, "--format", "hf", "--dtype", "bfloat16"]) == 0
    assert main(["export", hf, theirs, "--format", "llava"]) == 0
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert main(["certify", hf, theirs]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the same model, up to rounding"


def test_certify_ends_with_1_where_models_differ(golden, golden_path, tokenizer, tmp_path, capsys):
    stage_1 = str(golden_path / "model" / "stage1-mlp2x")
    rc = main(["certify", stage_1, golden, "--base", golden])
    last = capsys.readouterr().out.splitlines()[-1]
    assert (rc, last) in {(0, "the same model, up to rounding"), (1, "not the same model")}
    assert main(["import", stage_1, str(tmp_path / "x"), "--base", golden, "--dtype", "float16"]) == 0
    import torch

    from llava_pl import load_pretrained
    from llava_pl.export.carry import carry

    other = load_pretrained(tmp_path / "x")
    with torch.no_grad():
        other.model.decoder.head.weight.mul_(2)
    carry(other, tmp_path / "y", "artifact")
    capsys.readouterr()
    assert main(["certify", str(tmp_path / "x"), str(tmp_path / "y")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "not the same model"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import", "{golden}", "{tmp}"], "exists already; choose another place, or remove it first"),
        (["import", "nowhere", "{tmp}/x"], "nowhere: no such folder"),
        (["export", "{golden}", "{tmp}/x", "--format", "hf"], "the model has no tokenizer, which AutoProcessor needs"),
        (
            ["export", "{golden}", "{tmp}/x", "--format", "lora"],
            "expected a model with adapters, found none",
        ),
        (["certify", "{golden}", "nowhere"], "nowhere: no such folder"),
        (["import", "{golden}", "{tmp}/x", "--tokenizer", "{tmp}"], "no tokenizer at"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(golden, tmp_path, capsys, words, message):
    assert main([word.format(golden=golden, tmp=tmp_path) for word in words]) == 2
    found = capsys.readouterr().err
    assert message in found
    assert found.startswith("llava-pl: error: ")
    assert len(found.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_file", [True, False])
def test_a_place_that_takes_nothing_is_told_before_reading(tmp_path, capsys, monkeypatch, is_file):
    place = tmp_path / "place"
    place.touch() if is_file else place.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path != place)  # as of a folder of another user
    assert main(["import", "nowhere", str(place / "new" / "x")]) == 2
    found, said = ("no folder" if is_file else "a folder that cannot be written to"), capsys.readouterr()
    assert said.err == (
        f"llava-pl: error: {place}/new/x: cannot be written: {place} is {found}; choose another place\n"
    )
    assert said.out == ""


def test_a_process_that_is_told_to_end_leaves_nothing(golden, tmp_path):
    code = (
        "import sys, time\nfrom llava_pl.export import carry\nfrom llava_pl.cli import main\n"
        "carry._ask_again = lambda *_: (print('asking', flush=True), time.sleep(60))\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "import", golden, str(tmp_path / "new" / "x")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert "asking\n" in process.stdout
        assert [path.name for path in (tmp_path / "new").iterdir()] == [f".x.{process.pid}.tmp"]
        process.terminate()
        assert process.wait(30) == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["export", "a", "b"], ["export", "a", "b", "--format", "gguf"], ["import", "a"], ["certify", "a", "b", "c"]],
)
def test_wrong_words_are_one_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("llava-pl: error: ")


@pytest.mark.parametrize("command", ["import", "export", "certify"])
def test_help_is_answered_without_torch(command):
    code = (
        "import sys\nfrom llava_pl.cli import main\ntry:\n    main([sys.argv[1], '--help'])\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True)
    assert f"usage: llava-pl {command} " in result.stdout
    assert "forms that are read, told apart by their files" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ends_are_orderly(number):
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may have it ignored
    try:
        with pytest.raises(SystemExit) as end, orderly_end():
            os.kill(os.getpid(), number)
    finally:
        assert signal.signal(number, before) is signal.SIG_DFL
    assert end.value.code == 128 + number


def test_what_nohup_ignores_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with orderly_end():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN
