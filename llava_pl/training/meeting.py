"""Where the ranks of a run meet: what keeps them apart, in one line.

In: several processes, perhaps on several machines. Out: the same run on all of them, or an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed import DistNetworkError

from llava_pl.data.ordering import name_order
from llava_pl.types import InputError


class MeetRanks(Callback):
    """Checks before anything is read from a checkpoint that all ranks go on from the same one, over the same data.

    Each node looks for itself. Where they find something else, ranks would wait for each other forever, or learn from
    samples that others learn from, too.

    Args:
        ckpt_path: The checkpoint that this rank has found, None for a run that begins.
    """

    def __init__(self, ckpt_path: str | None) -> None:
        self._checkpoint = "none" if ckpt_path is None else Path(ckpt_path).resolve().name

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare.

        Raises:
            InputError: A rank has found something else than the first one.
        """
        if trainer.world_size == 1:
            return
        found: list[dict[str, str]] = [{}] * trainer.world_size
        torch.distributed.all_gather_object(found, {"checkpoint": self._checkpoint, **_describe_data(trainer)})
        for rank, mine in enumerate(found):
            for what, value in mine.items():
                if value != found[0][what]:
                    raise InputError(
                        f"ranks 0 and {rank} of {trainer.world_size} do not begin the same run: expected the same "
                        f"{what}, found {found[0][what]} and {value}; give all nodes the same command, the same data, "
                        "and a --run_dir on a disk that they share"
                    )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say why ranks did not meet.

        Raises:
            InputError: The exception is of that.
        """
        if "connectFullMesh" in str(exception):
            raise InputError(
                f"rank {trainer.global_rank} of {trainer.world_size} does not reach another one: {exception}; set "
                "GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) on each node to the network interface by which the nodes "
                "reach each other"
            ) from exception
        if isinstance(exception, DistNetworkError) and "EADDRINUSE" in str(exception):
            port = os.environ.get("MASTER_PORT")
            raise InputError(
                f"MASTER_PORT: {port}: another program listens on this port of {os.environ.get('MASTER_ADDR')}, a run "
                "that has not ended perhaps; set MASTER_PORT to a free one, the same on all nodes"
            ) from exception


def _describe_data(trainer: Trainer) -> dict[str, str]:
    """Return what must be the same on all ranks that train."""
    if trainer.state.fn != "fit":
        return {}
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return {"training data": str(data.train_data.content), "order": name_order(data.grouping, data.seed)}
