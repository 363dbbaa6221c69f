"""Guards docs/tutorial.md: a reader's first ten minutes that end in an error.

The blocks of the page run one after the other, as they stand but for fewer pictures and epochs, on the demo's parts and
on a LLaVA in the original's layout, both too small to answer well.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from llava_pl.cli import main
from llava_pl.demo.dataset import write_dataset
from llava_pl.demo.parents import make_parents
from llava_pl.run_folder import RUN_DIR_VARIABLE

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
FEWER = {"240": "32", "60)": "3)", "max_epochs: 12": "max_epochs: 1", "num_workers: 1": "num_workers: 0"}
LLAVA = {"openai/clip-vit-large-patch14-336": "clip"}
BEFOREHAND = ("make demo", "hf download")
"""What the fixture stands for."""


def tangle(first, last, names):
    """Run the blocks between two headings in the working directory, and return the words of each command."""
    start, end = PAGE.index(first), PAGE.index(last) if last else len(PAGE)
    ran = []
    for kind, title, code in BLOCKS:
        if not start <= PAGE.index(code) < end:
            continue
        for text, shorter in names.items():
            code = code.replace(text, shorter)
        if kind == "yaml":
            Path(title).write_text(code)
        elif kind == "python":
            Path(title).write_text(code)
            exec(compile(code, title, "exec"), {})
        elif kind == "bash":
            for line in code.strip().splitlines():
                if not line.startswith(BEFOREHAND):
                    program, *words = shlex.split(line)
                    assert program == "llava-pl"
                    assert main(words) == 0, line
                    ran.append(words)
    return ran


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with what `make demo` leaves behind, hardly trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    demo = Path("runs/demo")
    write_dataset(demo / "data", num_pictures=64, num_held_out=4)
    make_parents(demo / "parts", demo / "data", encoder_steps=2, decoder_steps=2)
    configs = [
        word for name in ("model", "finetune") for word in ("--config", f"{REPOSITORY}/configs/demo/{name}.yaml")
    ]
    parts = ["--model.vision_encoder.path", f"{demo}/parts/encoder", "--model.decoder.path", f"{demo}/parts/decoder"]
    data = ["--data.records", f"{demo}/data/instructions.json", "--data.image_folder", f"{demo}/data/images"]
    rest = ["--data.num_workers", "0", "--trainer.max_steps", "1", "--run_dir", f"{demo}/finetune"]
    assert main(["fit", *configs, *parts, *data, *rest]) == 0


@pytest.mark.filterwarnings("ignore")
def test_the_page_runs(place, golden_path, tiny_parts, capsys):
    capsys.readouterr()
    ran = tangle("## 1.", "## The same", FEWER)
    shown = capsys.readouterr().out
    assert [" ".join(words[:2] if words[0] == "data" else words[:1]) for words in ran] == [
        "data convert", "data convert", "data view", "data check", "plan", "fit", "chat", "export",
    ]  # fmt: skip
    assert "wrote records.json: 32 records, 32 pictures" in shown
    assert "all 35 records are good" in shown
    assert re.search(r"^\d of 3 right$", shown, re.MULTILINE)
    assert Path("my-model/config.json").is_file()

    models = golden_path / "model"
    shutil.copytree(models / "clip-mlp2x-patch14-56", "clip")
    shutil.copytree(models / "llava-mlp2x", "llava-v1.5-7b")
    for path in Path("llava-v1.5-7b").iterdir():
        path.chmod(0o644)
    config = json.loads(Path("llava-v1.5-7b/config.json").read_text())
    Path("llava-v1.5-7b/config.json").write_text(json.dumps({**config, "mm_vision_tower": "clip"}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_parts / "decoder" / name, "llava-v1.5-7b")
    ran = tangle("## The same", None, LLAVA)
    assert [words[0] for words in ran] == ["plan", "fit", "chat"]
