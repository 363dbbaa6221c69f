"""The checkpoints of a run: ``step=N.ckpt``, the newest few, and the link ``last.ckpt``.

In: a checkpoint that is whole. Out: a folder in which ``last.ckpt`` always is one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from llava_pl.export.shards import is_sharded

OWN_NAME = re.compile(r"step=(\d+)\.ckpt")


class CheckpointFolder:
    """Keeps the newest checkpoints of a run, and leaves other files alone.

    Args:
        path: The folder.
        num_kept: Checkpoints that are kept.
    """

    def __init__(self, path: Path, num_kept: int) -> None:
        self._path = path
        self._num_kept = num_kept
        self._steps: set[int] = set()

    @property
    def last(self) -> Path:
        """The link to the newest checkpoint."""
        return self._path / "last.ckpt"

    def checkpoint(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self._path / f"step={step}.ckpt"

    def tidy(self, *, is_continued: bool) -> None:
        """Delete what a killed save left; take the checkpoints over that a continued run made."""
        for path in self._path.glob(".*.tmp"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self._path.glob("step=*.ckpt/"):
            if not is_sharded(path):
                shutil.rmtree(path)
        if is_continued:
            names = map(OWN_NAME.fullmatch, (path.name for path in self._path.iterdir()))
            self._steps = {int(name[1]) for name in names if name}

    def publish(self, step: int, remove: Callable[[Path], None]) -> None:
        """Point ``last.ckpt`` at the checkpoint of a step, which is whole, and delete those that are not kept.

        These are older ones, and those of a future that the run has left by going back.

        Args:
            step: The run's present step.
            remove: Deletes a checkpoint.
        """
        link = self._path / ".last.ckpt.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(self.checkpoint(step).name)
        link.replace(self.last)
        self._steps.add(step)
        past = sorted(other for other in self._steps if other <= step)
        for other in self._steps - set(past[-self._num_kept :]):
            remove(self.checkpoint(other))
            self._steps.remove(other)
