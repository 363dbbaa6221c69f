"""A micro batch goes through the model forward and backward without a number being computed.

In: a model on the meta device and the shape of a batch. Out: a `DryRun`, the memory that is alive on the way. What runs
is the model itself, on tensors of torch's ``FakeTensorMode``, so recomputation, adapters, autocast and architectures
count as they are, on a machine that could not hold a thousandth of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_pl.models.llava import LlavaModel
from llava_pl.planning.batches import BatchShape, make_batch
from llava_pl.planning.memory_tape import MemoryTape, Moment


@dataclass(frozen=True, slots=True)
class DryRun:
    """What is alive beside weights and optimizer.

    Args:
        forward: On the way from the batch to the loss.
        backward: On the way back, with no gradients at its start.
        gradients: Of all that learns, at its end.
    """

    forward: list[Moment]
    backward: list[Moment]
    gradients: int

    @property
    def forward_peak(self) -> int:
        """The most bytes at once until the loss is known."""
        return max(moment.others for moment in self.forward)


def run_dry(model: LlavaModel, shape: BatchShape, *, autocast: torch.dtype | None) -> DryRun:
    """Return the memory that a micro batch takes.

    Args:
        model: On the meta device or fake, with its adapters, and with gradients asked for where it learns.
        shape: The micro batch.
        autocast: What torch computes in where it may; None for the dtype of the weights.

    Raises:
        InputError: The model refuses such a batch.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake_parameters(model)
        tape = AnsweringTape(list(model.parameters()), list(model.buffers()))
        context = nullcontext() if autocast is None else torch.autocast("cpu", dtype=autocast)
        try:
            with tape:
                batch = make_batch(shape, image_size=cast("int", model.vision_encoder.model.config.image_size))
                with context:
                    loss = _forward(model, batch)
                middle = len(tape.moments)
                loss.backward()  # type: ignore[no-untyped-call]
        finally:
            tape.close()
            model.zero_grad(set_to_none=True)
        gradients = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return DryRun(tape.moments[:middle], tape.moments[middle:], gradients)


def _forward(model: LlavaModel, batch: Mapping[str, Any]) -> Tensor:
    names = ("pixel_values", "attention_mask", "position_ids", "labels", "sequence_lengths", "num_supervised")
    output = model(batch["input_ids"], **{name: batch.get(name) for name in names}, grids=batch.get("grids", ()))
    total: Tensor = output.loss_output.total
    return total


def fake_parameters(model: nn.Module) -> None:
    """Put fake tensors on the CPU, which take no memory, in the place of parameters and buffers on the meta device.

    Of the device that a run is planned for torch may know nothing here: that of a GPU is not there. Call it within a
    ``FakeTensorMode``; tied parameters stay one.
    """
    fakes: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                learner = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                module._parameters[name] = fakes.setdefault(id(parameter), learner)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


class AnsweringTape(MemoryTape):  # type: ignore[no-untyped-call]
    """A tape that answers what cannot be read off tensors without numbers: a truth is false, a number is 1.

    So a mask does not mask nothing, and as many positions are image tokens or supervised as was counted beforehand.
    """

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  torch's own protocol
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation, or answer it."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1
        return super().__torch_dispatch__(func, types, args, kwargs)
