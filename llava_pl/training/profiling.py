"""Where the time of a step goes: torch's profiler over a few micro batches, with the parts of the model by name.

In: the actions of a run, as Lightning names them. Out: a trace in the folder of the run, and two tables at the end.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.profilers.pytorch import RegisterRecordFunction
from torch import nn
from torch.profiler import profile, schedule

from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError

ROWS = {
    "wait for data": "train_dataloader_next",
    "to the device": ".batch_to_device",
    "forward": ".training_step",
    "  vision encoder": ": vision_encoder",
    "  projector": ": projector",
    "  decoder": ": decoder",
    "  head": ": head",
    "  cross entropy": "aten::cross_entropy_loss",
    "backward": ".backward",
}
"""The rows of the first table, and how the names end that torch's profiler has for them."""


class StepProfiler(PyTorchProfiler):
    """Lightning's `PyTorchProfiler`, with settings that a file can hold, and ranges named by the parts of the model.

    Args:
        wait: Micro batches before anything is recorded: the first ones compile, allocate and start workers.
        warmup: Micro batches in which the profiler runs and is not listened to.
        active: Micro batches that are recorded.
        memory: Record the memory that operators take as well.
        row_limit: Operators in the second table.
        dirpath: Folder of the trace; by default where the trainer logs, which is that of the run.

    Raises:
        InputError: A number of micro batches is too small.
    """

    def __init__(
        self,
        wait: int = 3,
        warmup: int = 2,
        active: int = 3,
        memory: bool = False,
        row_limit: int = 20,
        dirpath: str | None = None,
    ) -> None:
        # Lightning's own ranges, of every module, would stay open where a layer is computed again: torch leaves it in
        # the middle, as soon as it has what it needs.
        super().__init__(
            dirpath=dirpath,
            row_limit=row_limit,
            record_module_names=False,
            schedule=schedule(wait=max(0, wait), warmup=max(0, warmup), active=max(1, active), repeat=1),
            profile_memory=memory,
        )
        # Only now: Lightning's `__del__`, which an error does not spare, needs what has been set above.
        for name, least, found in (("wait", 0, wait), ("warmup", 0, warmup), ("active", 1, active)):
            if found < least:
                raise InputError(f"profiler.{name}: expected at least {least} micro batches, found {found}")
        self._num_before = wait + warmup

    def start(self, action_name: str) -> None:
        """Begin an action; name the parts of the model once it is there."""
        super().start(action_name)
        model = getattr(self._lightning_module, "model", None)
        if self._register is None and isinstance(model, LlavaModel):
            decoder = cast("CausalDecoder", model.decoder)
            parts = {
                "vision_encoder": model.vision_encoder,
                "projector": model.projector,
                "decoder": decoder.model.base_model,
                "head": decoder.head,
            }
            self._register = RegisterRecordFunction(cast("nn.Module", SimpleNamespace(named_modules=parts.items)))
            self._register.__enter__()

    def summary(self) -> str:
        """Return the two tables: of a step, and of its operators."""
        operators: str = super().summary()
        if not self.function_events:
            return (
                f"profile: nothing was recorded; the run ended within the {self._num_before} micro batches that come "
                "before; raise trainer.max_steps, or lower wait and warmup of the profiler"
            )
        return f"\n{self._summarize_step()}\n\n{operators}"

    def _cache_functions_events(self) -> None:
        # Where nothing was recorded, torch fails when it is asked for events.
        if cast("profile", self.profiler).profiler is not None:
            super()._cache_functions_events()

    def _summarize_step(self) -> str:
        """Return the first table: the time of the host, on average over the recorded steps."""
        events: list[Any] = list(self.function_events or ())
        steps = [event.cpu_time_total for event in events if event.name.startswith("ProfilerStep")]
        num_steps, whole = len(steps) or 1, sum(steps) or 1.0
        rows = {
            row: sum(event.cpu_time_total for event in events if event.name.endswith(end)) / num_steps
            for row, end in ROWS.items()
        }
        updates = _update_times(events)
        rows["update"] = sum(updates) / (len(updates) or 1)
        whole /= num_steps
        rows["rest"] = max(0.0, whole - sum(time for row, time in rows.items() if not row.startswith(" ")))
        lines = [f"{row:<20}{time / 1000:>14.2f}{time / whole:>9.1%}" for row, time in rows.items()]
        return "\n".join([f"{'time of the host':<20}{'ms per step':>14}{'share':>9}", *lines])


def _update_times(events: list[Any]) -> list[float]:
    """Return what each update of the weights took that was recorded whole, in microseconds.

    The optimizer's step begins with the forward and the backward pass, which Lightning names as it does all hooks: the
    update is what follows the last of these.
    """
    named = [event for event in events if event.name.startswith("[pl]")]
    times = []
    for step in (event.time_range for event in events if event.name.startswith("Optimizer.step")):
        within = [each for each in named if step.start <= each.time_range.start and each.time_range.end <= step.end]
        if any(each.name.endswith(ROWS["backward"]) for each in within):
            times.append(step.end - max(each.time_range.end for each in within))
    return times
