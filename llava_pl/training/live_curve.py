"""The curve of a run in a notebook, drawn again while it trains.

In: what the module logs. Out: one picture in the output of the cell, which changes. Jupyter, VS Code and programs that
run notebooks without a window all show it, for it is a PNG that is replaced, and no widget.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class LiveCurve(Callback):
    """Draws what the module logs, one panel for each metric.

    Args:
        metrics: What to draw; one that has not been logged has no panel.
        every_n_steps: How often values are taken.
        every_seconds: How often it is drawn, at most; once more at the end.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("train/loss", "train/grad_norm"),
        *,
        every_n_steps: int = 1,
        every_seconds: float = 1.0,
    ) -> None:
        self.metrics, self.every_n_steps, self.every_seconds = tuple(metrics), every_n_steps, every_seconds
        self.history: dict[str, list[tuple[int, float]]] = {}
        """Step and value, by metric."""
        self._handle: Any = None
        self._drawn_at = float("-inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew: another run gets a picture of its own."""
        self.history, self._handle, self._drawn_at = {}, None, float("-inf")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401  Lightning's union of what a step may return
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Take the values of an optimizer step, and draw them if it is time."""
        step = trainer.global_step
        if not trainer.is_global_zero or step % self.every_n_steps:
            return
        for name in self.metrics:
            values = self.history.setdefault(name, [])
            if name in trainer.callback_metrics and (not values or values[-1][0] < step):
                values.append((step, float(trainer.callback_metrics[name])))
        if perf_counter() - self._drawn_at >= self.every_seconds:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last values."""
        if trainer.is_global_zero:
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        from IPython.display import Image, display  # the extra [notebooks]

        show: Any = display  # IPython says nothing of its types
        png: Any = Image
        picture = png(data=draw_curves(self.history, max_steps=trainer.max_steps))
        if self._handle is None:
            self._handle = show(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn_at = perf_counter()


def draw_curves(history: dict[str, list[tuple[int, float]]], *, max_steps: int = -1) -> bytes:
    """Return curves as a PNG: each value as it is, and the running mean of the last tenth of all.

    Args:
        history: Step and value, by metric.
        max_steps: End of the horizontal axis; -1 for the last step that is there.
    """
    from matplotlib.figure import Figure  # not at the top: it takes a third of a second

    shown = {name: values for name, values in history.items() if values}
    figure = Figure(figsize=(4.5 * max(1, len(shown)), 3), layout="constrained", dpi=100)
    for axis, (name, values) in zip(
        figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown.items(), strict=False
    ):
        steps, numbers = zip(*values, strict=True)
        axis.plot(steps, numbers, color="#3b6ea5", alpha=0.35, linewidth=1)
        axis.plot(steps, running_mean(numbers, max(1, len(numbers) // 10)), color="#3b6ea5", linewidth=2)
        axis.set(title=name, xlabel="step", xlim=(0, max_steps if max_steps > 0 else None), ylim=(0, None))
        axis.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def running_mean(numbers: Sequence[float], width: int) -> list[float]:
    """Return for each number the mean of it and of those before it, as many as there are in a window.

    >>> running_mean([1.0, 3.0, 5.0, 7.0], 2)
    [1.0, 2.0, 4.0, 6.0]
    """
    sums = [0.0]
    for number in numbers:
        sums.append(sums[-1] + number)
    firsts = [max(0, place - width) for place in range(1, len(sums))]
    return [(sums[last] - sums[first]) / (last - first) for last, first in enumerate(firsts, start=1)]
