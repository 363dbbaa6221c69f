"""A log for TensorBoard in the folder of the run.

In: what the trainer logs. Out: event files, which `tensorboard --logdir runs` shows run by run.
"""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from llava_pl.packages import is_installed
from llava_pl.types import InputError

NAME = "tensorboard"


class TensorBoardLog(TensorBoardLogger):
    """Writes what a run logs for TensorBoard.

    A run that goes on adds a file; steps after its checkpoint then appear twice.

    Args:
        save_dir: Folder of the event files; by default `tensorboard` in the folder of the run.
    """

    def __init__(self, save_dir: str | None = None) -> None:
        if not is_installed("tensorboard"):
            raise InputError(
                "trainer.logger: TensorBoardLog: expected the package tensorboard, found none; install it with "
                "pip install -e '.[tensorboard]' in the checkout, or leave configs/logger/tensorboard.yaml out"
            )
        self._is_given = save_dir is not None
        super().__init__(save_dir or NAME, name="", version="", default_hp_metric=False)

    def settle(self, run_dir: Path) -> None:
        """Write into the folder of a run, unless the configuration names another."""
        if not self._is_given:
            self._root_dir = str(run_dir / NAME)
