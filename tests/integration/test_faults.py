"""Guards: a fault of one rank that hangs the others, says nothing that helps, or loses what was saved.

Two ranks that Lightning starts on one machine. Each run is struck, says so in a line and ends; on it goes by the same
command, and is compared with one that was never struck. What one rank alone meets is in `test_resume.py`, other numbers
of ranks are in `test_resplit.py`, several machines in `test_nodes.py`.
"""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llava_pl.cli import main
from llava_pl.ledger_file import verify_ledger
from llava_pl.run_folder import RUN_DIR_VARIABLE

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_RECORDS = 16

HOOKS = '''
import os
import threading
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from llava_pl.training import checkpoint_io


class Stuck(checkpoint_io._HashingFile):
    """A file that is never whole, from step 6 on."""

    def write(self, data):
        if "step=6" in self._file.name:
            threading.Event().wait()
        return super().write(data)


class Strike(Callback):
    """Ends a rank, or with -1 all processes of the run, by SIGKILL in the seventh step; once."""

    def __init__(self, rank: int):
        self.rank = rank

    def on_train_start(self, trainer, pl_module):
        if self.rank < 0 and not Path("struck").exists():
            checkpoint_io._HashingFile = Stuck

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step != 6 or trainer.global_rank != max(self.rank, 0) or Path("struck").exists():
            return
        Path("struck").touch()
        os.kill(os.getpid(), 9) if self.rank >= 0 else os.killpg(0, 9)
'''


@pytest.fixture
def root(tmp_path, tiny_parts, monkeypatch):
    """A folder with data and a configuration."""
    records = []
    for number in range(NUM_RECORDS):
        turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "abcdefghi"[: 1 + number % 9]}]
        records.append({"id": str(number), "conversations": turns})
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "hooks.py").write_text(HOOKS)
    settings = {
        "model": {
            "stage": "finetune",
            "vision_encoder": {"path": str(tiny_parts / "encoder")},
            "decoder": {"path": str(tiny_parts / "decoder")},
            "optim": {"learning_rate": 1e-3, "warmup_share": 0.0},
        },
        "data": {
            "class_path": "llava_pl.LlavaDataModule",
            "init_args": {"records": "records.json", "image_folder": ".", "batch_size": 2, "num_workers": 0},
        },
        "trainer": {
            "max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0,
            "enable_progress_bar": False, "devices": 1,
        },
        "save_every_n_steps": 2,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")
    return tmp_path


def fit(strategy: str, run: str, rank: int | None = None, seconds: float = 150) -> tuple[int, str]:
    """Run `fit` on two ranks, and return its status and what it said."""
    words = ["--config", "config.yaml", "--config", str(REPOSITORY / "configs" / "strategy" / f"{strategy}.yaml")]
    if rank is not None:
        callback = {"class_path": "hooks.Strike", "init_args": {"rank": rank}}
        Path("strike.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        words += ["--config", "strike.yaml"]
    strange = ("RANK", "MASTER", "WORLD_SIZE", "PL_GLOBAL_SEED", RUN_DIR_VARIABLE, "LLAVA_PL_PARENT")
    environment = {name: value for name, value in os.environ.items() if not any(word in name for word in strange)}
    environment.update(PYTHONPATH=f"{REPOSITORY}:{Path.cwd()}", OMP_NUM_THREADS="1")
    words += ["--trainer.devices", "2", "--run_dir", run, "--ckpt_path", "auto"]
    with Path("output.txt").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "llava_pl", "fit", *words],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pytest.fail(f"still running after {seconds} seconds:\n{Path('output.txt').read_text()[-3000:]}")
    return status, Path("output.txt").read_text()


def read_losses(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}


def assert_goes_on(strategy: str, run: str, step: int) -> None:
    """Go on from a step, and compare with one process that was never struck."""
    assert Path(run, "checkpoints", "last.ckpt").resolve().name == f"step={step}.ckpt"
    status, output = fit(strategy, run)
    assert status == 0, output
    assert main(["fit", "--config", "config.yaml", "--run_dir", "one", "--trainer.accumulate_grad_batches", "2"]) == 0
    expected = read_losses(Path("one"))
    assert sorted(expected) == list(range(8))
    assert read_losses(Path(run)) == pytest.approx(expected, rel=1e-6)
    assert [(r.num_seen, r.num_padding, r.is_good) for r in verify_ledger(run)] == [(NUM_RECORDS, 0, True)] * 2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_kill_9_of_one_rank(root, strategy):
    status, output = fit(strategy, "run", rank=1)
    assert status not in (0, None)
    assert "llava-pl: error: rank 0 of 2: another rank has ended or does not answer, at step 6, samples " in output
    assert "go on with --ckpt_path last" in output
    # The save of step 6 may have been under way.
    assert_goes_on(strategy, "run", int(Path("run/checkpoints/last.ckpt").resolve().stem.partition("=")[2]))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_kill_9_of_all_ranks_during_a_save(root, strategy):
    status, output = fit(strategy, "run", rank=-1)
    assert status == -signal.SIGKILL, output
    assert list(Path("run/checkpoints").rglob(".*.tmp"))
    assert_goes_on(strategy, "run", 4)
    assert not list(Path("run/checkpoints").rglob(".*.tmp"))


@pytest.fixture
def disk(root):
    """A folder on a disk of its own; return what sets the size of that."""
    disk = root / "disk"
    disk.mkdir()

    def resize(num_bytes: int, option: str = "remount") -> int:
        words = ["mount", "-t", "tmpfs", "-o", f"{option},size={num_bytes}", "llava", str(disk)]
        return subprocess.run(words, check=False, capture_output=True).returncode

    if resize(2**20, "rw"):
        pytest.skip("mounting a disk is not allowed here")
    yield resize
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_disk_that_is_full_at_a_save(disk, strategy):
    """It has room for two checkpoints, and not for the third."""
    assert main(["fit", "--config", "config.yaml", "--run_dir", "size", "--trainer.max_steps", "1"]) == 0
    disk(int(2.5 * Path("size/checkpoints/step=1.ckpt").stat().st_size) + 2**16)
    status, output = fit(strategy, "disk/run")
    assert status not in (0, None)
    lines = [line for line in output.splitlines() if line.startswith("llava-pl: error: checkpoint: disk/run/")]
    assert lines, output
    assert "cannot be written: No space left on device; older checkpoints are as they were, make room and" in lines[0]
    disk(2**24)
    assert_goes_on(strategy, "disk/run", 4)
