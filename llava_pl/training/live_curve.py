"""The curve of a run in a notebook, drawn again while it trains.

In: what the module logs. Out: one picture in the output of the cell, which changes. Jupyter, VS Code and programs that
run notebooks without a window all show it, for it is a PNG that is replaced, and no widget.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from time import perf_counter
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from llava_pl.curves.figure import make_figure
from llava_pl.curves.metrics import Metrics
from llava_pl.curves.panels import make_panels


class LiveCurve(Callback):
    """Draws what the module logs, as the curves of a run are drawn.

    Args:
        metrics: What to draw, of those that `llava_pl.curves` knows.
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
            self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last values."""
        if trainer.is_global_zero:
            self._draw()

    def _draw(self) -> None:
        from IPython.display import Image, display  # the extra [notebooks]

        show: Any = display  # IPython says nothing of its types
        png: Any = Image
        panels = make_panels({"": Metrics({name: points for name, points in self.history.items() if points})})
        if not panels:
            return  # one point is no curve
        file = BytesIO()
        make_figure(panels).savefig(file, format="png", dpi=100)
        picture = png(data=file.getvalue())
        if self._handle is None:
            self._handle = show(picture, display_id=True)
        else:
            self._handle.update(picture)
        self._drawn_at = perf_counter()
