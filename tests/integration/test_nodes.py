"""Guards: a run over several machines that hangs, reads a sample twice, or is not one run.

Two nodes of one process each, in network namespaces of their own where this machine allows that, are started as
torchrun, SLURM and ssh start them. Each run is ended before its time, goes on by the same command, and is compared with
one process that was never stopped.
"""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.ledger_file import verify_ledger
from llava_pl.run_folder import RUN_DIR_VARIABLE
from llava_pl.training.checkpoint_io import DurableCheckpointIO

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = REPOSITORY / "configs" / "cluster"
NUM_RECORDS = 16

HOOKS = '''
"""Strikes a process of a run, and counts builds of stores."""

import os
import threading
import time
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from llava_pl.data import store_cache
from llava_pl.training import checkpoint_io

write_records = store_cache.write_records


def write_slowly(*words, **settings):
    with Path("builds.txt").open("a") as file:
        file.write(os.environ.get("NODE_RANK", "0") + "\\n")
    time.sleep(float(os.environ.get("BUILD_SECONDS", 0)))
    return write_records(*words, **settings)


store_cache.write_records = write_slowly


class Stuck(checkpoint_io._HashingFile):
    def write(self, data):
        if "step=6" in self._file.name:
            threading.Event().wait()
        return super().write(data)


class Strike(Callback):
    """Gives a rank, or the process that started it, a signal within a step; only the first start of a run.

    A rank that is stuck never ends writing its part of the checkpoint before that.
    """

    def __init__(self, rank: int, number: int, is_for_parent: bool, is_stuck: bool):
        self.rank, self.number, self.is_for_parent, self.is_stuck = rank, number, is_for_parent, is_stuck

    def on_train_start(self, trainer, pl_module):
        if self.is_stuck and trainer.global_rank == self.rank and not Path("struck").exists():
            checkpoint_io._HashingFile = Stuck

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        is_it = trainer.global_rank == self.rank and trainer.global_step == (6 if self.is_stuck else 5)
        if is_it and not Path("struck").exists():
            Path("struck").touch()
            os.kill(os.getppid() if self.is_for_parent else os.getpid(), self.number)
'''


@pytest.fixture
def cluster(make_cluster, tmp_path, tiny_parts, monkeypatch):
    """Two nodes, and data and a configuration for them."""
    rng, records = np.random.default_rng(0), []
    for number in range(NUM_RECORDS):
        turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "abcdefghi"[: 1 + number % 9]}]
        records.append({"id": str(number), "conversations": turns})
        if number % 3 == 0:
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
            records[-1]["image"] = f"{number}.png"
            turns[0]["value"] = "<image>\nQ?"
    (tmp_path / "records.json").write_text(json.dumps(records))
    (tmp_path / "val.json").write_text(json.dumps(records[:5]))
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
            "init_args": {
                "records": "records.json", "val_records": "val.json", "image_folder": ".", "batch_size": 2,
                "eval_batch_size": 1, "num_workers": 0,
            },
        },
        "trainer": {
            "max_epochs": 2, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
        },
        "save_every_n_steps": 2,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")
    return make_cluster(tmp_path)


def strike(rank: int, number: int, *, is_for_parent: bool = False, is_stuck: bool = False) -> list[str]:
    """Return the words by which a run is struck in its sixth step."""
    settings = {"rank": rank, "number": int(number), "is_for_parent": is_for_parent, "is_stuck": is_stuck}
    callback = {"class_path": "hooks.Strike", "init_args": settings}
    Path("strike.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return ["--config", "config.yaml", "--config", "strike.yaml"]


def read_metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_is_one_run(run: Path) -> None:
    """Compare with one process that was never stopped."""
    words = ["fit", "--config", "config.yaml", "--run_dir", "one", "--trainer.accumulate_grad_batches", "2"]
    assert main(words) == 0
    found, expected = read_metrics(run), read_metrics(Path("one"))
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for name, number in (("train/loss", 8), ("val/loss", 2)):
        values = [float(row[name]) for row in expected if row[name]]
        assert len(values) == number
        assert [float(row[name]) for row in found if row[name]] == pytest.approx(values, rel=1e-6)
    reports = verify_ledger(run)
    assert [(r.num_seen, r.num_padding, r.is_whole, r.is_good) for r in reports] == [(NUM_RECORDS, 0, True, True)] * 2
    names = {"checkpoints", "config.yaml", "data.json", "environment.json", "hparams.yaml", "ledger", "metrics.csv"}
    names |= {".lock", "state.json", "curves.html", "curves.png"}
    assert {path.name for path in run.iterdir()} == names
    last, one = (
        DurableCheckpointIO().load_checkpoint(path / "checkpoints" / "last.ckpt") for path in (run, Path("one"))
    )
    assert last["global_step"] == 8
    for name, weight in one["state_dict"].items():
        assert (last["state_dict"][name] - weight).norm() <= 1e-5 * weight.norm(), name


def start_torchrun(cluster, *words: str) -> list[subprocess.Popen]:
    """Start torchrun on both nodes, as docs/cluster.md says."""
    return [
        cluster.start(
            sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, "--node-rank", node,
            "--master-addr", cluster.addresses[0], "--master-port", 29571, "--shutdown-timeout", 60, "--no-python",
            "llava-pl", "fit", *words, "--trainer.num_nodes", 2, "--run_dir", "run", "--ckpt_path", "auto", node=node,
        )
        for node in range(2)
    ]  # fmt: skip


def test_torchrun_of_a_node_is_told_to_stop(cluster):
    words = strike(0, signal.SIGTERM, is_for_parent=True)
    first = start_torchrun(cluster, *words)
    assert 0 not in cluster.wait(*first)
    assert "llava-pl: stopped by SIGTERM after step 6, which is saved" in first[0].output.read_text()
    assert Path("run/checkpoints/last.ckpt").resolve().name == "step=6.ckpt"
    again = start_torchrun(cluster, *words)
    assert cluster.wait(*again) == [0, 0], again[0].output.read_text()
    assert "llava-pl: ckpt_path: auto: going on with run/checkpoints/last.ckpt" in again[0].output.read_text()
    assert "ckpt_path" not in again[1].output.read_text()
    assert_is_one_run(Path("run"))


def start_job(cluster, *words: str) -> subprocess.Popen:
    """Start a job's script as SLURM does; one signal reaches one task."""
    variables = {"SLURM_JOB_ID": 74711, "SLURM_JOB_NAME": "tiny", "SLURM_JOB_NUM_NODES": 2}
    variables["SLURM_NODELIST"] = cluster.addresses[0]
    return cluster.start("bash", CLUSTER / "slurm.sbatch", *words, **variables)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_slurm_job_is_queued_again_and_goes_on(cluster, number):
    words = strike(1, number)
    job = start_job(cluster, *words)
    assert cluster.wait(job) == [128 + signal.SIGTERM]  # the highest; the rank that got no signal itself has this one
    assert Path("requeued.txt").read_text() == "requeue 74711\n"
    output = job.output.read_text()
    assert "after step 6, which is saved" in output
    assert not list(Path("runs").rglob("hpc_ckpt*"))  # Lightning's own requeueing
    again = start_job(cluster, *words)
    assert cluster.wait(again) == [0], again.output.read_text()
    assert Path("requeued.txt").read_text() == "requeue 74711\n"
    assert_is_one_run(Path("runs/tiny/74711"))


def start_ssh(cluster, *words: str) -> subprocess.Popen:
    """Start a run over ssh."""
    words = (*words, "--run_dir", "run", "--ckpt_path", "auto")
    nodes = " ".join(cluster.addresses)
    return cluster.start("bash", CLUSTER / "ssh.sh", *words, NODES=nodes, MASTER_PORT=29572)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_node_dies_of_a_run_over_ssh(cluster, strategy):
    """Under FSDP2 before its part of a checkpoint is written, for which the first one would wait for half an hour."""
    words = strike(1, signal.SIGKILL, is_stuck=strategy == "fsdp2")
    words += ["--config", str(REPOSITORY / "configs" / "strategy" / f"{strategy}.yaml")]
    first = start_ssh(cluster, *words)
    assert cluster.wait(first) != [0]
    step = {"ddp": 5, "fsdp2": 6}[strategy]
    assert f"rank 0 of 2: another rank has ended or does not answer, at step {step}, sam" in first.output.read_text()
    assert Path("run/checkpoints/last.ckpt").resolve().name == "step=4.ckpt"
    again = start_ssh(cluster, *words)
    assert cluster.wait(again) == [0], again.output.read_text()
    assert_is_one_run(Path("run"))


@pytest.mark.parametrize(("caches", "builders"), [(("cache", "cache"), 1), (("cache0", "cache1"), 2)])
def test_each_disk_gets_its_stores_once_and_nobody_s_patience_ends(cluster, caches, builders):
    """The first node at least builds for longer than ranks wait for each other."""
    strategy = {"class_path": "llava_pl.training.strategies.FSDP2Strategy", "init_args": {"timeout_minutes": 0.1}}
    Path("strategy.yaml").write_text(yaml.safe_dump({"trainer": {"strategy": strategy}}))
    words = [*strike(9, 0), "--config", "strategy.yaml", "--trainer.num_nodes", "2", "--run_dir", "run"]
    processes = [
        cluster.start(
            "llava-pl", "fit", *words, node=node, NODE_RANK=node, MASTER_ADDR=cluster.addresses[0], MASTER_PORT=29573,
            LLAVA_PL_CACHE=cluster.folder / caches[node], BUILD_SECONDS=0 if builders == 2 and node == 1 else 10,
        )
        for node in range(2)
    ]  # fmt: skip
    assert cluster.wait(*processes) == [0, 0], processes[0].output.read_text()
    # Two sources, records and val.
    assert len(Path("builds.txt").read_text().split()) == 2 * builders
    is_waited_for = ["waiting for another process that builds" in process.output.read_text() for process in processes]
    assert any(is_waited_for) == (builders == 1)


def test_nodes_that_find_other_checkpoints_do_not_begin(cluster):
    assert main(["fit", "--config", "config.yaml", "--run_dir", "run", "--trainer.max_steps", "2"]) == 0
    words = ["--config", "config.yaml", "--trainer.num_nodes", "2", "--ckpt_path", "auto", "--run_dir"]
    processes = [
        cluster.start(
            "llava-pl", "fit", *words, run, node=node, NODE_RANK=node, MASTER_ADDR=cluster.addresses[0],
            MASTER_PORT=29574,
        )
        for node, run in enumerate(("run", "elsewhere"))
    ]  # fmt: skip
    assert cluster.wait(*processes) == [2, 2]
    for process in processes:
        assert process.output.read_text().splitlines()[-1] == (
            "llava-pl: error: ranks 0 and 1 of 2 do not begin the same run: expected the same checkpoint, found "
            "step=2.ckpt and none; give all nodes the same command, the same data, and a --run_dir on a disk that they "
            "share"
        )
