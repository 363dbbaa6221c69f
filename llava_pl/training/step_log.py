"""What is logged of each optimizer step beside its loss: the norm of the gradients, and the learning rates."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class StepLog(Callback):
    """Logs ``train/grad_norm``, as it is before clipping, and ``lr/`` of each group of parameters."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log them."""
        # DeepSpeed has taken the gradients away by now; its strategy logs their norm.
        if gradients := [p.grad for p in pl_module.parameters() if p.grad is not None]:
            pl_module.log("train/grad_norm", get_total_norm(gradients))
        pl_module.log_dict({f"lr/{group['name']}": float(group["lr"]) for group in optimizer.param_groups})
