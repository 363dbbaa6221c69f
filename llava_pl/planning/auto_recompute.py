"""`model.decoder.gradient_checkpointing: auto` to the cheapest recomputation with which a run fits its devices.

In: a run whose data is open and whose model is not built. Out: the setting in its module, the same on all ranks.
"""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.planning.planner import plan_run
from llava_pl.planning.run_plan import GIB, Assumptions
from llava_pl.training.module import LlavaModule
from llava_pl.types import InputError


class ChooseRecompute(Callback):
    """Chooses before the model is built.

    Args:
        config: The merged configuration of `fit`.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401  a namespace of jsonargparse
        self._config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plan the run for the memory that is free on the fullest device, and say what was chosen.

        Raises:
            InputError: The run cannot be planned, or not even recomputing all of it is enough.
        """
        module = cast("LlavaModule", pl_module)
        if stage != "fit" or module.model_config.decoder.gradient_checkpointing != "auto":
            return
        device = trainer.strategy.root_device
        free = torch.tensor(measure_free(device, num_sharing=trainer.num_devices), device=device)
        memory = int(trainer.strategy.reduce(free, reduce_op="min"))  # the ranks must not choose differently
        config = self._config.clone()
        config.trainer.accelerator = device.type  # "auto" is no longer unknown
        config.trainer.devices, config.trainer.num_nodes = trainer.num_devices, trainer.num_nodes
        assumptions = Assumptions(device_memory_gib=memory / GIB)
        data = cast("ConversationDataModule", trainer.datamodule)  # type: ignore[attr-defined]
        plan = plan_run(module, data, config, assumptions)
        if not plan.spread.is_known:
            raise InputError(
                f"model.decoder.gradient_checkpointing: auto cannot plan strategy {plan.spread.name}; set none, "
                "selective or full, or take a strategy of configs/strategy/"
            )
        if plan.memory is None:
            raise InputError(plan.refusal)
        needs = f"needs {plan.memory.peak / GIB:.2f} of {assumptions.limit / GIB:.2f} GiB on each device"
        if plan.recompute is None:
            advice = f"at most {plan.largest_batch} fit" if plan.largest_batch else "divide the model (fsdp2)"
            raise InputError(
                f"model.decoder.gradient_checkpointing: auto: a micro batch of {plan.batch_size} samples {needs} even "
                f"where layers are recomputed in full; {advice}"
            )
        rank_zero_info(f"model.decoder.gradient_checkpointing: auto chose {plan.recompute}, which {needs}")


def measure_free(device: torch.device, *, num_sharing: int) -> int:
    """Return the bytes that are free on a device.

    Args:
        device: Of this rank.
        num_sharing: Ranks of this machine, which divide its memory where it is the device.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # of an earlier run here
        return torch.cuda.mem_get_info(device)[0] + kept
    return max(1, int(min(psutil.virtual_memory().available, _free_of_container())) // num_sharing)


def _free_of_container() -> float:
    """Return the bytes that Linux still gives this container (cgroup v2); infinitely many outside of one.

    Pages of files, which count as held, are given up for it.
    """
    try:
        most, held, parts = (
            Path("/sys/fs/cgroup", f"memory.{name}").read_text() for name in ("max", "current", "stat")
        )
    except OSError:
        return inf
    if most.strip() == "max":
        return inf
    pages = dict(line.split() for line in parts.splitlines())
    return int(most) - int(held) + int(pages["active_file"]) + int(pages["inactive_file"])
