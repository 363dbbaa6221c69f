"""ZeRO without a GPU: Lightning refuses it, DeepSpeed does not. For tests alone; DS_ACCELERATOR=cpu must be set."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn
from torch.optim import Optimizer

from llava_pl.training.zero import ZeroStrategy


class CPUZeroStrategy(ZeroStrategy):
    """`ZeroStrategy` between processes on CPUs."""

    def setup_environment(self) -> None:
        """Do as Lightning's strategy, without asking for a GPU."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Do as Lightning's strategy, without comparing indices, which CPUs have not."""
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        with _no_index():
            return super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        with _no_index():
            super()._initialize_deepspeed_inference(model)


@contextmanager
def _no_index() -> Generator[None, None, None]:
    """Lightning hands the index of its device on to DeepSpeed, which stumbles over the None of a CPU."""
    import deepspeed

    initialize = deepspeed.initialize
    deepspeed.initialize = lambda args, **options: initialize(**options)
    yield
    deepspeed.initialize = initialize
