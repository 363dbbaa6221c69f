"""What tests of whole runs share."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE

SECONDS = 240
"""A run takes about fifteen on two cores, or 80 on busy ones; one that hangs takes until here."""


def _run(*words: object, cwd: Path | None = None, seconds: int = SECONDS) -> str:
    """Run Python with some words and all processes that this starts, at most for the time limit; return what it said.

    A test fails if the status is not 0.
    """
    # The last: with a seed in the environment, as an earlier run in this process leaves it, DDP seeds once more.
    strange = ("RANK", "MASTER_PORT", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if not any(word in name for word in strange)}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",  # where DeepSpeed is asked for, it finds this, a strategy for it, and ninja
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(
            [*(str(Path(__file__).parents[n]) for n in (2, 0)), os.environ.get("PYTHONPATH", "")]
        ),
    }
    with tempfile.TemporaryFile("w+") as file:  # a pipe would stay open as long as any process that inherited it
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=cwd, env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: the other rank too
        file.seek(0)
        output = file.read()
    if process.returncode is None:
        pytest.fail(f"still running after {seconds} seconds:\n{output[-3000:]}")
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


def _zero(stage: int, *, offload: bool = False) -> dict:
    options = {"stage": stage, "offload": offload, "process_group_backend": "gloo", "timeout_minutes": 1.0}
    return {"class_path": "cpu_deepspeed.CPUZeroStrategy", "init_args": options}


STRATEGIES = {
    "single": "auto",
    "ddp": "ddp",
    "fsdp2": {"class_path": "llava_pl.training.strategies.FSDP2Strategy"},
    "zero2": _zero(2),
    "zero3": _zero(3),
    "zero3_offload": _zero(3, offload=True),
}


@pytest.fixture(scope="session")
def strategies() -> dict:
    """What `trainer.strategy` is, by short names."""
    return STRATEGIES
