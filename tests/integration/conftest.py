"""What tests of whole runs share."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE

SECONDS = 120
"""A run takes about fifteen, or forty on a busy machine; one that hangs takes until here."""


def _run(*words: object) -> str:
    """Run Python with some words and all processes that this starts, at most for the time limit; return what it said.

    A test fails if the status is not 0.
    """
    # The last: with a seed in the environment, as an earlier run in this process leaves it, DDP seeds once more.
    strange = ("RANK", "MASTER_PORT", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if not any(word in name for word in strange)}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: the other rank too
        output, _ = process.communicate()
        pytest.fail(f"still running after {SECONDS} seconds:\n{output[-3000:]}")
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.fixture(scope="session")
def run():
    """Run Python with some words."""
    return _run


@pytest.fixture
def fit(tmp_path, tiny_model, monkeypatch):
    """Run stage align (or what the words say) for a step on four records, and return the checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    Image.effect_noise((20, 12), 90).convert("RGB").save(tmp_path / "grey.png")
    turns = [{"from": "human", "value": "<image>\nColour?"}, {"from": "gpt", "value": "grey"}]
    records = [{"id": index, "image": "grey.png", "conversations": turns} for index in range(4)]
    (tmp_path / "records.json").write_text(json.dumps(records))
    data = {"records": "records.json", "image_folder": ".", "batch_size": 4, "num_workers": 0}
    settings = {
        # Warming up, the first step would be one of length zero.
        "model": {**tiny_model, "stage": "align", "optim": {"learning_rate": 0.001, "warmup_share": 0.0}},
        "data": {"class_path": "llava_pl.LlavaDataModule", "init_args": data},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))

    def fit(*words: str) -> Path:
        assert main(["fit", "--config", "config.yaml", "--run_dir", "run", *words]) == 0
        return tmp_path / "run" / "checkpoints" / "last.ckpt"

    return fit
