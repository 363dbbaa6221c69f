"""DeepSpeed's ZeRO under Lightning, with checkpoints that any other strategy can read.

In: a module whose model is built. Out: an engine of DeepSpeed that divides optimizer state and gradients among all
devices (stage 2), or the weights as well (stage 3), and keeps them in host memory if asked to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.plugins.precision.deepspeed import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.optim import Optimizer

from llava_pl.export.streaming import WeightStream
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.models.recompute import find_layers
from llava_pl.packages import is_installed
from llava_pl.training.module import LlavaModule
from llava_pl.training.schedule import is_step_complete
from llava_pl.training.strategies import WholeTensorCheckpoints
from llava_pl.training.zero_pieces import (
    fill_zero,
    fill_zero_optimizer,
    fill_zero_rows,
    gather_zero_optimizer,
    gather_zero_weights,
)
from llava_pl.types import InputError

ELEMENTWISE = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
"""Optimizers of torch that treat each weight by itself, as they must where they are handed pieces of no shape."""


NOISE = "A module has unknown inputs or outputs type"
"""How a warning of DeepSpeed begins: it does not look for tensors in the dataclasses that the outermost modules return.
No hook of theirs is needed, because their own parameters take no part in the backward pass."""


class ZeroStrategy(WholeTensorCheckpoints, DeepSpeedStrategy):
    """DeepSpeed's ZeRO (Rajbhandari et al. 2020); needs the extra [deepspeed].

    Args:
        stage: What is divided among all devices: optimizer state and gradients (2), or the weights as well (3).
        offload: Keep what is divided in host memory, and update weights there.
        timeout_minutes: How long a device waits for the others before the run ends.
        process_group_backend: As torch names it; by the device when None.
    """

    def __init__(
        self,
        stage: Literal[2, 3] = 2,
        offload: bool = False,
        timeout_minutes: float | None = None,
        process_group_backend: str | None = None,
    ) -> None:
        require_deepspeed()
        if stage not in (2, 3):
            raise InputError(f"trainer.strategy.stage: expected 2 or 3, found {stage}; for 1 use 2, for 0 ddp")
        super().__init__(
            stage=stage,
            offload_optimizer=offload,
            offload_parameters=offload and stage == 3,
            pin_memory=offload and torch.cuda.is_available(),
            sub_group_size=1_000_000_000,
            logging_batch_size_per_gpu=1,  # which DeepSpeed wants to know, and uses for a log that is switched off
            process_group_backend=process_group_backend,
            timeout=default_pg_timeout if timeout_minutes is None else timedelta(minutes=timeout_minutes),
        )
        logging.getLogger("DeepSpeed").addFilter(lambda record: not record.getMessage().startswith(NOISE))
        self._stage = stage
        self.updates_on_host = offload
        self._groups: list[list[nn.Parameter]] = []

    @property
    def precision_plugin(self) -> Precision:
        """How numbers are held."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        # Lightning names its own plugin for every strategy of this kind.
        if isinstance(plugin, DeepSpeedPrecision):
            plugin = _ZeroPrecision(cast("Any", plugin.precision))
        self._precision_plugin = plugin

    @property
    def handles_gradient_accumulation(self) -> bool:
        """No: Lightning's loop counts micro batches, as everywhere else, and ends a step with its epoch."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Let each micro batch be summed up over the devices: none has room for all gradients."""
        yield

    def connect(self, model: LightningModule) -> None:
        """Take a module, after checking that DeepSpeed can train it.

        Raises:
            InputError: It cannot.
        """
        if isinstance(model, LlavaModule):
            clipping = None if model._trainer is None else model.trainer.gradient_clip_algorithm
            check_zero(model, stage=self._stage, offload=self.updates_on_host, clip_algorithm=clipping)
        super().connect(model)

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Leave building alone: a model that is divided while it is built cannot read weights; see `divide`."""
        self._init_config_if_needed()
        yield

    @property
    def divides_weights(self) -> bool:
        """Whether a device holds a parameter whole only while it is used."""
        return self._stage == 3

    def divide(self, model: LlavaModel, stream: WeightStream | None) -> None:
        """Divide a built model among the devices, layer by layer, if weights are to be divided.

        What the first device holds is what counts.

        Args:
            model: What is changed.
            stream: Fills one layer after the other with its weights, just before it is divided; None if the model holds
                them already.
        """
        model.encodes_blanks = True
        config, decoder = cast("dict[str, Any]", self.config), cast("CausalDecoder", model.decoder)
        # LLaVA: "auto" in its files; transformers' integration puts these in.
        config["zero_optimization"]["reduce_bucket_size"] = decoder.width**2
        if not self.divides_weights:
            return
        from deepspeed import zero as deepspeed_zero

        config["zero_optimization"] |= {
            "stage3_prefetch_bucket_size": int(0.9 * decoder.width**2),
            "stage3_param_persistence_threshold": 10 * decoder.width,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
        }
        for unit in [*find_layers(decoder.model), decoder.embedding, decoder.head, model]:
            parameters = [parameter for parameter in unit.parameters() if not hasattr(parameter, "ds_shape")]
            if stream is not None:
                stream.make_real(parameters)
            for parameter in parameters:
                parameter.data = parameter.data.to(cast("_ZeroPrecision", self.precision_plugin).dtype)
            deepspeed_zero.Init(module=unit, config_dict_or_path=config)

    def _init_optimizers(self) -> Any:  # noqa: ANN401  an optimizer and Lightning's notes on its schedule
        """Remember how parameters are numbered: DeepSpeed puts flat tensors in their place."""
        optimizer, schedule = super()._init_optimizers()
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer, schedule

    def backward(self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Add a micro batch's gradients up, which the loop has divided by their number already."""
        is_last = is_step_complete(cast("LlavaModule", self.lightning_module).trainer)
        self.deepspeed_engine.set_gradient_accumulation_boundary(is_last)
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: Any = None,  # noqa: ANN401  as Lightning has it
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Update the weights, and log the norm of the gradients before clipping, which is known only now."""
        output = super().optimizer_step(optimizer, closure, model, **kwargs)
        norm = self.deepspeed_engine.get_global_grad_norm()
        cast("LlavaModule", self.lightning_module).log("train/grad_norm", float(norm))
        return output

    def gather(self, pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the base class."""
        return gather_zero_weights(pieces, self.global_rank, self.world_size)

    def fill(self, piece: Tensor, whole: Tensor) -> None:
        """As the base class, and what the optimizer holds of it."""
        fill_zero(cast("nn.Parameter", piece), whole)

    def fill_rows(self, table: Tensor, token_ids: Sequence[int], rows: Tensor) -> None:
        """As the base class."""
        fill_zero_rows(cast("nn.Parameter", table), token_ids, rows)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state of the parameters that this rank brings to a checkpoint."""
        return gather_zero_optimizer(self.deepspeed_engine.optimizer, self._groups, self.global_rank, self.world_size)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Fill the optimizer's state of this rank's pieces."""
        (state,) = checkpoint["optimizer_states"]
        fill_zero_optimizer(self.deepspeed_engine.optimizer, self._groups, state)


class _ZeroPrecision(DeepSpeedPrecision):
    """DeepSpeed's precision, for batches with more than tensors in them."""

    @property
    def dtype(self) -> torch.dtype:
        """What weights are held in for the forward pass; the optimizer holds them in float32."""
        dtype: torch.dtype = self._desired_dtype
        return dtype

    def convert_input(self, data: Any) -> Any:  # noqa: ANN401
        """Leave a batch alone: the model takes pictures to the dtype of its weights, and nothing else is a float."""
        return data


def require_deepspeed() -> None:
    """Check that DeepSpeed is installed.

    Raises:
        InputError: It is not.
    """
    if not is_installed("deepspeed"):
        raise InputError(
            "trainer.strategy: ZeroStrategy needs DeepSpeed, which is not installed; "
            "DS_BUILD_OPS=0 pip install -e '.[deepspeed]' in the checkout, or use configs/strategy/fsdp2.yaml"
        )


def check_zero(module: LlavaModule, *, stage: int, offload: bool, clip_algorithm: str | None = None) -> None:
    """Check that DeepSpeed can train a module as its settings ask, before anything is loaded.

    Args:
        module: Whose settings are looked at.
        stage: As for `ZeroStrategy`.
        offload: Likewise.
        clip_algorithm: How the trainer clips gradients.

    Raises:
        InputError: It cannot.
    """
    if stage == 3 and (found := module.model_config.decoder.quantization) != "none":
        raise InputError(
            f"model.decoder.quantization: found {found} with ZeRO-3, which cannot divide quantized weights; set it to "
            "none, or use configs/strategy/ddp.yaml"
        )
    config = module.model_config
    if stage == 3 and (config.decoder.compile_layers or config.vision_encoder.compile_layers):
        raise InputError(
            "compile_layers: found true with ZeRO-3, which gathers weights within a layer, where nothing can be "
            "compiled; set model.decoder.compile_layers and model.vision_encoder.compile_layers to false, or use "
            "configs/strategy/fsdp2.yaml"
        )
    if stage == 3 and config.decoder.gradient_checkpointing == "selective":
        raise InputError(
            "model.decoder.gradient_checkpointing: found selective with ZeRO-3, which gathers weights "
            "in the midst of the layers that are recomputed; set it to full or none, or use configs/strategy/fsdp2.yaml"
        )
    package, _, name = module.optim_config.optimizer.rpartition(".")
    if not package.startswith("torch.optim") or name not in ELEMENTWISE:
        raise InputError(
            f"model.optim.optimizer: found {package}.{name} with ZeRO, which hands an optimizer pieces of no shape; "
            f"expected one of torch.optim: {', '.join(ELEMENTWISE)}"
        )
    if offload and (name not in ("Adam", "AdamW") or module.optim_config.options):
        raise InputError(
            f"model.optim.optimizer: found {package}.{name} with options {module.optim_config.options} and offloading, "
            "for which DeepSpeed has Adam and AdamW without options alone; use one of these, or no offloading"
        )
    if clip_algorithm == "value":
        raise InputError(
            "trainer.gradient_clip_algorithm: found value, but DeepSpeed clips by the norm alone; set it to norm"
        )
