"""The loggers of a run: its own file always, and beside it what the configuration names.

In: `trainer.logger` of the configuration. Out: what the trainer gets. Curves and `llava-pl runs` read the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.loggers import Logger

from llava_pl.training.metrics_log import MetricsLog
from llava_pl.training.tensorboard_log import TensorBoardLog


def complete_loggers(given: Logger | Iterable[Logger] | bool | None, run_dir: Path, log: str) -> list[Logger]:
    """Return the loggers of a run, its own file first; none where the configuration says `false`.

    Args:
        given: What the configuration names.
        run_dir: Folder of the run.
        log: Name of the file.
    """
    if given is False:
        return []
    if given is None or given is True:
        loggers: list[Logger] = []
    else:
        loggers = [given] if isinstance(given, Logger) else list(given)
    for logger in loggers:
        if isinstance(logger, TensorBoardLog):
            logger.settle(run_dir)
    return (
        loggers if any(isinstance(logger, MetricsLog) for logger in loggers) else [MetricsLog(run_dir, log), *loggers]
    )
