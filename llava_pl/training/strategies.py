"""Lightning's strategies for a model that is divided among devices, with checkpoints that any other strategy can read.

In: a module that divides its model in `configure_model`. Out: a folder of one file per rank, each with whole tensors
(see `export/shards.py`); or a divided model whose pieces were filled from a checkpoint of any strategy.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from llava_pl.export.initial_weights import places
from llava_pl.export.shards import shard_path
from llava_pl.export.streaming import WeightStream
from llava_pl.models.adapters import learned_rows, plain_table
from llava_pl.models.division import whole_shape
from llava_pl.models.llava import LlavaModel
from llava_pl.models.vocabulary import row_tables
from llava_pl.training.background import BackgroundCheckpointIO
from llava_pl.training.checkpoint import cut_rows
from llava_pl.training.checksum import temporary_path
from llava_pl.training.module import LlavaModule
from llava_pl.training.pieces import divide_optimizer, fill, fill_rows, gather_optimizer, gather_weights
from llava_pl.training.shard_writing import finish_folder
from llava_pl.training.sharding import check_shardable, shard
from llava_pl.types import InputError


class WholeTensorCheckpoints(ParallelStrategy):
    """Checkpoints of a divided model: a folder with a file of each rank, whole tensors in it."""

    deals_tensors = True
    """The module need not choose what a checkpoint holds: `lightning_module_state_dict` has, and dealt it out."""
    # Lightning and DeepSpeed would read shards of their own form otherwise.
    lightning_restore_optimizer = True

    @abstractmethod
    def gather(self, pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the whole tensors that this rank is dealt; all ranks take part."""

    @abstractmethod
    def fill(self, piece: Tensor, whole: Tensor) -> None:
        """Copy this rank's part of a whole tensor into its piece; all ranks take part."""

    @abstractmethod
    def fill_rows(self, table: Tensor, token_ids: Sequence[int], rows: Tensor) -> None:
        """Copy the rows of some tokens into this rank's piece of a table; all ranks take part."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the tensors that this rank brings to a checkpoint.

        Raises:
            InputError: One was not gathered whole.
        """
        module = cast("LlavaModule", self.lightning_module)
        pieces = module.find_own()
        gathered = self.gather(pieces)
        for name, whole in gathered.items():
            if whole.shape != (shape := whole_shape(pieces[name])):
                raise InputError(
                    f"checkpoint: {name}: expected shape {tuple(shape)} from all ranks together, found "
                    f"{tuple(whole.shape)}; nothing was written, older checkpoints are as they were"
                )
        return cut_rows(gathered, module.model)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fill the pieces of this rank; that names and shapes fit, the module has checked."""
        model = cast("LlavaModule", self.lightning_module).model
        own, tables = places(model), row_tables(model)
        for name, whole in checkpoint["state_dict"].items():
            name = name.removeprefix("model.")
            if name in own:
                self.fill(own[name], whole)
                continue
            self.fill_rows(plain_table(tables[name]).weight, model.new_token_ids, whole)
            if (learned := learned_rows(tables[name])) is not None:
                self.fill(learned, whole)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:  # noqa: ANN401
        """Write this rank's file of a checkpoint; the first rank then waits for the others' and closes the folder.

        Raises:
            InputError: The place is no folder of a file system.
        """
        if "://" in str(filepath):
            raise InputError(
                f"checkpoint: {filepath}: expected a path in a file system that all devices share, where a divided "
                "model is saved as a folder; choose one, and copy the folder when the run has ended"
            )
        writer = self.checkpoint_io
        if self.is_global_zero:
            if isinstance(writer, BackgroundCheckpointIO):
                writer.wait()  # perhaps for an earlier one of this name
            shutil.rmtree(temporary_path(Path(filepath)), ignore_errors=True)  # of a save that was killed
        folder = Path(self.broadcast(filepath))
        if not self.is_global_zero:
            names = ("state_dict", "optimizer_states", "global_step")  # the last one tells files of two saves apart
            checkpoint = {name: checkpoint[name] for name in names if name in checkpoint}
        save = writer.save_gathered if isinstance(writer, BackgroundCheckpointIO) else writer.save_checkpoint
        save(checkpoint, shard_path(temporary_path(folder), self.global_rank), storage_options)
        if self.is_global_zero:
            finish = partial(finish_folder, folder, self.world_size)
            writer.afterwards(finish) if isinstance(writer, BackgroundCheckpointIO) else finish()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the content of a checkpoint of any strategy, mapped into memory."""
        return self.checkpoint_io.load_checkpoint(self.broadcast(checkpoint_path), weights_only=weights_only)


class FSDP2Strategy(WholeTensorCheckpoints, ModelParallelStrategy):
    """Parameters, gradients and optimizer state in equal pieces on all devices (PyTorch's FSDP2, as ZeRO-3).

    Args:
        timeout_minutes: How long a device waits for the others before the run ends.
        process_group_backend: As torch names it; by the device when None.
    """

    divides_weights = True

    def __init__(self, timeout_minutes: float = 30.0, process_group_backend: str | None = None) -> None:
        super().__init__(process_group_backend=process_group_backend, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """Use all devices of all machines for dividing the model; Lightning's own choice is tensor parallelism."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def connect(self, model: LightningModule) -> None:
        """Take a module, after checking that it can be divided.

        Raises:
            InputError: It cannot.
        """
        if isinstance(model, LlavaModule):
            check_shardable(model.model_config.decoder.quantization, model.optim_config.optimizer)
        super().connect(model)

    def divide(self, model: LlavaModel, stream: WeightStream | None) -> None:
        """Divide a built model among the devices, and fill it; see `shard`."""
        shard(model, self.device_mesh["data_parallel"], stream, is_half=self.precision_plugin.precision == "bf16-mixed")

    def gather(self, pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the base class."""
        return gather_weights(pieces, self.global_rank, self.world_size)

    def fill(self, piece: Tensor, whole: Tensor) -> None:
        """As the base class; no rank waits for another."""
        fill(piece, whole)

    def fill_rows(self, table: Tensor, token_ids: Sequence[int], rows: Tensor) -> None:
        """As the base class; no rank waits for another."""
        fill_rows(table, token_ids, rows)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state of the parameters that this rank brings to a checkpoint."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return gather_optimizer(optimizer.state_dict(), self.global_rank, self.world_size)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Fill the optimizer's state of this rank's pieces."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            optimizer.load_state_dict(divide_optimizer(state, parameters))
