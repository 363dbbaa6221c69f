"""Guards: TAB offers what a command does not take, or nothing, or starts Python; a script that a shell refuses."""

import shutil
import subprocess
from pathlib import Path

import pytest
import shtab

from llava_pl.app.completion_command import SHELLS, make_tree
from llava_pl.app.data.data_commands import MODULES
from llava_pl.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]

# Bash calls the function with the words of the line so far; what it offers is COMPREPLY.
PRESS_TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_shtab_llava_pl
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def tree():
    return make_tree()


@pytest.fixture(scope="module")
def scripts(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        (folder / shell).write_text(shtab.complete(tree, shell))
    return folder


@pytest.fixture(scope="module")
def offered(scripts):
    def press(*words):
        command = [shutil.which("bash"), "--norc", "-c", PRESS_TAB, "bash", str(scripts / "bash"), "llava-pl", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env={"PATH": ""})
        assert done.stderr == ""
        return done.stdout.split()

    return press


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ex"], ["export"]),
        (["data", ""], ["view", "check", *MODULES]),
        (["verify", ""], ["invariance"]),
        (["eval", "mm"], ["mme", "mmbench", "mm-vet"]),
        (["data", "instruct", "x", "y", "--kinds", "d"], ["detailed"]),
        (["data", "instruct", "--prices."], ["--prices.read", "--prices.written"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["chat", "--qua"], ["--quantization"]),
        (["eval", "scienceqa", "--pa"], ["--parser"]),
        (["fit", "--model.decoder.att"], ["--model.decoder.attention"]),
        (["fit", "--data.max_l"], ["--data.max_length"]),
        (["predict", "--ckpt"], ["--ckpt_path"]),
        (["fit", "--data.tokenizer"], []),  # taken from the model
        (["data", "check", "--qu"], ["--quarantine"]),
        (["data", "check", "--model.st"], ["--model.stage"]),  # those of fit
        (["export", "a", "b", "--format", ""], ["hf", "llava", "lora", "projector"]),
        (["eval", "scienceqa", "--parser", ""], ["llava", "strict", "lenient", "lmms-eval"]),
        (["fit", "--model.stage", ""], ["align", "finetune"]),
        (["fit", "--config", "a.yaml", "--model.stage", "f"], ["finetune"]),
        (["fit", "--config", "configs/README"], ["configs/README.md"]),
        (["fit", "--ckpt_path", "READ"], ["README.md"]),
        (["fit", "--data.records", "READ"], ["README.md"]),
        (["plan", "--config", "configs/README"], ["configs/README.md"]),
        (["chat", "READ"], ["README.md"]),
        (["chat", "model", "--image", "READ"], ["README.md"]),
        (["runs", "READ"], ["README.md"]),
    ],
)
def test_what_bash_offers(offered, words, expected):
    """With an empty PATH: nothing is started but what bash is made of."""
    assert sorted(offered(*words)) == sorted(expected)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_reads_its_script(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, "-n", str(scripts / shell)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_is_printed(tree, monkeypatch, capsys):
    monkeypatch.setattr("llava_pl.app.completion_command.make_tree", lambda: tree)
    assert main(["completion", "bash"]) == 0
    assert "complete -o bashdefault -F _shtab_llava_pl llava-pl" in capsys.readouterr().out


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "csh"])
    assert capsys.readouterr().err.startswith("llava-pl: error: argument shell: invalid choice: 'csh' (choose from")
