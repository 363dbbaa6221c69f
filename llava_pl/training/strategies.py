"""Lightning's strategies for a model that is divided among devices, with checkpoints that any other strategy can read.

In: a module that divides its model in `configure_model`. Out: a folder of one file per rank, each with whole tensors
(see `export/shards.py`); or a divided model whose pieces were filled from a checkpoint of any strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim import Optimizer

from llava_pl.export.shards import shard_path
from llava_pl.training.background import BackgroundCheckpointIO
from llava_pl.training.checkpoint import keep_trained
from llava_pl.training.module import LlavaModule
from llava_pl.training.pieces import divide_optimizer, fill, gather_optimizer, gather_weights
from llava_pl.training.shard_writing import finish_folder


class FSDP2Strategy(ModelParallelStrategy):
    """Parameters, gradients and optimizer state in equal pieces on all devices (PyTorch's FSDP2, as ZeRO-3).

    Args:
        timeout_minutes: How long a device waits for the others before the run ends.
        process_group_backend: As torch names it; by the device when None.
    """

    # Lightning would read shards of its own form otherwise.
    lightning_restore_optimizer = True

    def __init__(self, timeout_minutes: float = 30.0, process_group_backend: str | None = None) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Use all devices of all machines for dividing the model; Lightning's own choice is tensor parallelism."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the tensors that this rank brings to a checkpoint."""
        module = cast("LlavaModule", self.lightning_module)
        pieces = keep_trained(dict(module.named_parameters()), module.model, "model.")
        return gather_weights(pieces, self.global_rank, self.world_size)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state of the parameters that this rank brings to a checkpoint."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return gather_optimizer(optimizer.state_dict(), self.global_rank, self.world_size)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write this rank's file of a checkpoint; the first rank then waits for the others' and closes the folder."""
        folder = Path(self.broadcast(filepath))
        if not self.is_global_zero:
            checkpoint = {name: checkpoint[name] for name in ("state_dict", "optimizer_states") if name in checkpoint}
        self.checkpoint_io.save_checkpoint(checkpoint, shard_path(folder, self.global_rank), storage_options)
        if self.is_global_zero:
            finish = partial(finish_folder, folder, self.world_size)
            writer = self.checkpoint_io
            writer.afterwards(finish) if isinstance(writer, BackgroundCheckpointIO) else finish()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the content of a checkpoint of any strategy, mapped into memory."""
        return self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path), weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fill the pieces of this rank; that names and shapes fit, the module has checked."""
        own = dict(cast("LlavaModule", self.lightning_module).named_parameters())
        for name, whole in checkpoint["state_dict"].items():
            fill(own[name], whole)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Fill the optimizer's state of this rank's pieces."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            optimizer.load_state_dict(divide_optimizer(state, parameters))
