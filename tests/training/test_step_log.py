"""Guards: a logged gradient norm that clipping has changed, or that frozen parameters are asked for."""

from types import SimpleNamespace

import torch
from lightning import LightningModule

from llava_pl.training.step_log import StepLog


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.trained, self.frozen = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1).requires_grad_(False)
        self.logged = {}

    def log(self, name, value):
        self.logged[name] = float(value)

    def log_dict(self, values):
        self.logged |= values


def test_norm_and_rates():
    module = Recorder()
    module.trained.weight.grad, module.trained.bias.grad = torch.tensor([[2.0, 4.0]]), torch.tensor([4.0])
    groups = [{"params": module.trained.parameters(), "lr": 0.5, "name": "decay"}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    StepLog().on_before_optimizer_step(SimpleNamespace(), module, optimizer)
    assert module.logged == {"train/grad_norm": 6.0, "lr/decay": 0.5}


def test_a_strategy_that_has_taken_the_gradients_logs_their_norm():
    module = Recorder()
    optimizer = torch.optim.SGD([{"params": module.trained.parameters(), "lr": 0.5, "name": "decay"}])
    StepLog().on_before_optimizer_step(SimpleNamespace(), module, optimizer)
    assert module.logged == {"lr/decay": 0.5}
