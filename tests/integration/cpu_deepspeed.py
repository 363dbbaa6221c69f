"""ZeRO without a GPU: Lightning refuses it, DeepSpeed does not. For tests alone; DS_ACCELERATOR=cpu must be set."""

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
        import deepspeed

        # Lightning hands on the device's index, which is None here.
        engine, zero, _, _ = deepspeed.initialize(
            config=self.config,
            model=model,
            model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, zero
