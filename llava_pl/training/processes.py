"""Which of a run's processes this one is, before Lightning has counted them.

In: the variables that torchrun, srun, Lightning or a user set. Out: who tidies up and speaks, and whether processes can
agree on anything by themselves.
"""

from __future__ import annotations

import os

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""What numbers processes or nodes; the first process of a run has 0 in all that are set."""

_OF_TORCHRUN = (
    *("TORCHELASTIC_RUN_ID", "GROUP_WORLD_SIZE", "GROUP_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)


def is_first_process() -> bool:
    """Return whether this is the process of all nodes that tidies up and speaks."""
    return not any(int(os.environ.get(name, 0)) > 0 for name in RANK_VARIABLES)


def is_started_beside_others(num_nodes: int) -> bool:
    """Return whether other processes of this run were started as this one, so that none inherits from another.

    Lightning starts those of its own node itself; torchrun, srun and a user on several nodes start them side by side.

    Args:
        num_nodes: Of the trainer.
    """
    return num_nodes > 1 or _num_tasks() > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1


def find_launcher() -> list[str]:
    """Return the words in front of ``llava-pl`` that started this process beside others, as the environment has them.

    On several nodes of torchrun they are those of the first; others have another ``--node-rank``.
    """
    env = os.environ
    if all(name in env for name in _OF_TORCHRUN):
        nodes = ["--nnodes", env["GROUP_WORLD_SIZE"], "--node-rank", env["GROUP_RANK"]]
        nodes += ["--master-addr", env["MASTER_ADDR"], "--master-port", env["MASTER_PORT"]]
        is_alone = env["GROUP_WORLD_SIZE"] == "1"
        return ["torchrun", *([] if is_alone else nodes), "--nproc-per-node", env["LOCAL_WORLD_SIZE"], "--no-python"]
    if _num_tasks() > 1:
        return [
            "srun",
            "--kill-on-bad-exit=1",
            "--nodes",
            env.get("SLURM_NNODES", "1"),
            "--ntasks",
            env["SLURM_NTASKS"],
        ]
    return []


def _num_tasks() -> int:
    is_shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # which Lightning takes for no srun
    return 1 if is_shell else int(os.environ.get("SLURM_NTASKS", 1))
