"""What tests of whole runs share."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from llava_pl.cli import main
from llava_pl.run_folder import RUN_DIR_VARIABLE

SECONDS = 240
"""A run takes about fifteen on two cores, or 80 on busy ones; one that hangs takes until here."""


def _run(*words: object, cwd: Path | None = None, seconds: int = SECONDS, status: int = 0) -> str:
    """Run Python with some words and all processes that this starts, at most for the time limit; return what it said.

    A test fails if the status is another one than expected.
    """
    # The last: with a seed in the environment, as an earlier run in this process leaves it, DDP seeds once more.
    strange = ("RANK", "MASTER_PORT", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if not any(word in name for word in strange)}
    environment |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        # Where DeepSpeed is asked for, it finds these: a device, ninja, and a strategy for CPUs.
        "DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu",
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
    assert process.returncode == status, output[-3000:]
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


SRUN = """#!/bin/bash
# Starts a task on each node and returns the highest status, as srun does.
[[ $1 == --kill-on-bad-exit=1 ]] && shift
export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=1 SLURM_NNODES=2 SLURM_LOCALID=0
for node in 0 1; do SLURM_PROCID=$node SLURM_NODEID=$node on_node $node "$@" & done
highest=0
for job in $(jobs -p); do wait $job; status=$?; (( status > highest )) && highest=$status; done
exit $highest
"""


class Cluster:
    """Two nodes on this machine; in its folder lies what both see."""

    def __init__(self, folder: Path, namespaces: list[str]) -> None:
        self.folder = folder
        self.addresses = ["10.77.0.1", "10.77.0.2"] if namespaces else ["127.0.0.1", "127.0.0.2"]
        self._prefixes = [["ip", "netns", "exec", name] for name in namespaces] or [[], []]
        programs = {
            "llava-pl": f'#!/bin/bash\nexec {sys.executable} -m llava_pl "$@"\n',
            "on_node": '#!/bin/bash\ncase $1 in 0) shift; exec {} "$@" ;; 1) shift; exec {} "$@" ;; esac\n'.format(
                *(" ".join(prefix) for prefix in self._prefixes)
            ),
            "srun": SRUN,
            "scontrol": '#!/bin/bash\necho "$@" >> requeued.txt\n',
            # It gets what it is to run as one line for a shell.
            "ssh": "#!/bin/bash\n[[ $1 == -tt ]] && shift\n"
            f'case $1 in {self.addresses[0]}) node=0 ;; *) node=1 ;; esac\nexec on_node $node bash -c "$2"\n',
        }
        (folder / "bin").mkdir()
        for name, text in programs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        strange = ("RANK", "MASTER", "PL_GLOBAL_SEED", "SLURM", RUN_DIR_VARIABLE)
        kept = {name: value for name, value in os.environ.items() if not any(word in name for word in strange)}
        self.environment = {
            **kept,
            "PATH": f"{folder / 'bin'}:{kept['PATH']}",
            "PYTHONPATH": f"{Path(__file__).parents[2]}:{folder}",
            "OMP_NUM_THREADS": "1",
            "LLAVA_PL_CACHE": str(folder / "cache"),
            **({"GLOO_SOCKET_IFNAME": "veth0"} if namespaces else {}),
        }
        self._processes: list[subprocess.Popen] = []

    def start(self, *words: object, node: int = 0, **variables: object) -> subprocess.Popen:
        """Start a program on a node, in a process group of its own; its words go to a file."""
        output = (self.folder / f"output-{len(self._processes)}.txt").open("w+")
        process = subprocess.Popen(
            [*self._prefixes[node], *map(str, words)],
            env={**self.environment, **{name: str(value) for name, value in variables.items()}},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.output = Path(output.name)
        self._processes.append(process)
        return process

    def wait(self, *processes: subprocess.Popen, seconds: float = 120) -> list[int]:
        """Return the statuses of processes, all of which must end in time."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(timeout=max(end - time.monotonic(), 0.01)) for process in processes]
        except subprocess.TimeoutExpired:
            self.kill()
            said = "\n".join(process.output.read_text()[-2000:] for process in processes)
            pytest.fail(f"still running after {seconds} seconds:\n{said}")

    def kill(self) -> None:
        """End what still runs."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def namespaces():
    """Two network namespaces joined by a cable; none where this machine does not allow that."""
    names = [f"llava-{os.getpid()}-{node}" for node in range(2)]
    cable = f"link add veth0 netns {names[0]} type veth peer name veth0 netns {names[1]}"
    lines = [f"netns add {name}" for name in names] + [cable]
    for node, name in enumerate(names):
        lines += [f"-n {name} addr add 10.77.0.{node + 1}/24 dev veth0"]
        lines += [f"-n {name} link set {device} up" for device in ("veth0", "lo")]
    try:
        for line in lines:
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)
        yield names
    except (OSError, subprocess.CalledProcessError):
        yield []
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def make_cluster(namespaces):
    """Return two nodes that share a folder; what still runs on them at the end is killed."""
    made = []

    def make(folder: Path) -> Cluster:
        made.append(Cluster(folder, namespaces))
        return made[-1]

    yield make
    for cluster in made:
        cluster.kill()
