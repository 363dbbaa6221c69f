"""When a run is saved.

In: the settings of the run, a request to stop. Out: checkpoints in its folder (see `checkpoint_folder.py`).

A checkpoint is taken where an optimizer step is complete: in the midst of one, gradients of some micro batches would be
lost. Where validation follows a step it is taken just before, in a state that makes the resumed run validate; at the
end of an epoch it is taken after everything.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from llava_pl.training.background import BackgroundCheckpointIO
from llava_pl.training.checkpoint_folder import CheckpointFolder
from llava_pl.training.metrics_log import MetricsLog
from llava_pl.training.schedule import is_step_complete
from llava_pl.training.stopping import StopRequest
from llava_pl.types import Batch, InputError


class RunCheckpoint(Checkpoint):
    """Saves a run on the way, at the end of each epoch, and when SIGTERM or SIGUSR1 asks it to stop.

    Args:
        run_dir: Folder of the run.
        every_n_steps: Save each time so many optimizer steps are done.
        every_minutes: Save when the last time is so long ago.
        num_kept: Checkpoints that are kept, the newest ones.
        resume_command: What is shown to the user as the way to go on.
        is_continued: The folder holds earlier checkpoints of this run; those of steps that are taken again are deleted.
        is_only_for_stops: Save nothing before a stop; another callback does.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
        num_kept: int = 2,
        resume_command: str = "",
        is_continued: bool = False,
        is_only_for_stops: bool = False,
    ) -> None:
        self._folder = CheckpointFolder(Path(run_dir) / "checkpoints", num_kept)
        self._every_n_steps = None if is_only_for_stops else every_n_steps
        self._every_seconds = None if is_only_for_stops or every_minutes is None else 60 * every_minutes
        self._stop = StopRequest(resume_command)
        self._is_continued = is_continued
        self._is_only_for_stops = is_only_for_stops
        self._saved_at = 0.0
        self._is_trial = False
        self._is_due = False
        self._is_before_validation = False
        self._num_validated = 0
        self._num_metric_rows: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals, and go back in the log to where the checkpoint was taken."""
        self._is_trial = bool(getattr(trainer, "fast_dev_run", False))
        if self._is_trial:
            return
        self._saved_at = time.monotonic()
        self._stop.listen(trainer)
        if self._num_metric_rows is not None and (log := _metrics_log(trainer)):
            log.cut(self._num_metric_rows)
        loop = trainer.fit_loop
        if loop.restarted_on_epoch_end:
            # Only with max_steps: Lightning 2.6.6 would end that epoch a second time, and skip the next one's order.
            loop.epoch_progress.increment_completed()
            loop.on_iteration_done()
            loop.epoch_loop.on_iteration_done()
        validation = loop.epoch_loop.val_loop
        if validation.restarted_mid_evaluation:
            validation.batch_progress.total.reset_on_restart()
        if trainer.is_global_zero:
            self._folder.tidy(is_continued=self._is_continued)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals: at SIGTERM Lightning would have ranks wait for each other within whatever they do."""
        if not getattr(trainer, "fast_dev_run", False):
            self._stop.listen(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save if it is time, once the optimizer step is complete."""
        if writer := _background_writer(trainer):
            writer.check()
        loop = trainer.fit_loop.epoch_loop
        if not is_step_complete(trainer):
            return
        is_time, is_stopping = self._agree(trainer, self._is_time(trainer), self._stop.is_made)
        self._is_due = self._is_due or is_time or is_stopping or self._is_cut_short(trainer)
        if not self._is_due or loop.batch_progress.is_last_batch or self._validates(trainer):
            return  # later hooks see to it, in a state that Lightning can resume
        if log := _metrics_log(trainer):
            log.write_ahead(trainer)
        self._save(trainer)
        if is_stopping:
            self._obey(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it is time: a validation may be long."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._num_validated = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.completed
        is_stopping = self._is_stopping(trainer)
        if self._is_due or is_stopping:
            self._save_before_validation(trainer)
        if is_stopping:
            self._obey(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if asked to; the resumed run validates from the beginning."""
        # Ranks may have different numbers of batches here, so that they cannot ask each other.
        if trainer.world_size == 1 and self._stop.is_made and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_before_validation(trainer)
            self._obey(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and stop if asked to."""
        is_stopping = self._is_stopping(trainer)
        if (is_stopping or not self._is_only_for_stops) and not self._is_cut_short(trainer):
            if log := _metrics_log(trainer):
                log.write_ahead(trainer)
            self._save(trainer)
        if is_stopping:
            self._obey(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Return when the last checkpoint is whole."""
        self._finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Finish what is being written, and say after Ctrl-C how to go on."""
        try:
            if writer := _background_writer(trainer):
                writer.wait()
        except InputError as error:  # it is not what ended the run
            warnings.warn(str(error), stacklevel=2)
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero and self._folder.last.exists():
            self._stop.say_how_to_resume()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Mark the validation that follows as entered; otherwise Lightning takes it for done."""
        if self._is_before_validation:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress.update(total=_entered(self._num_validated), current=_entered(0), is_last_batch=False)

    def state_dict(self) -> dict[str, Any]:
        """Return how long the log was."""
        return {} if self._num_metric_rows is None else {"num_metric_rows": self._num_metric_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember how long the log was."""
        self._num_metric_rows = state_dict["num_metric_rows"]

    def _is_time(self, trainer: Trainer) -> bool:
        if self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0:
            return True
        return self._every_seconds is not None and time.monotonic() - self._saved_at >= self._every_seconds

    @staticmethod
    def _validates(trainer: Trainer) -> bool:
        """Whether a validation follows this step, and has anything to do."""
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        if fetcher is None or not loop._should_check_val_fx(fetcher):
            return False
        loop.val_loop.setup_data()
        return not loop.val_loop.skip

    def _is_cut_short(self, trainer: Trainer) -> bool:
        """Whether training ends within an epoch; saved as its end, the rest of it would be lost to a longer run."""
        loop = trainer.fit_loop.epoch_loop
        is_over = 0 <= loop.max_steps <= trainer.global_step
        return is_over and not self._is_only_for_stops and not loop.batch_progress.is_last_batch

    def _is_stopping(self, trainer: Trainer) -> bool:
        return self._agree(trainer, self._stop.is_made)[0]

    @staticmethod
    def _agree(trainer: Trainer, *wishes: bool) -> list[bool]:
        """Return for each wish whether any rank has it: clocks differ, and a signal may reach one rank alone."""
        if trainer.world_size == 1:
            return list(wishes)
        wishing = torch.tensor(wishes, dtype=torch.int32, device=trainer.strategy.root_device)
        return [bool(number) for number in trainer.strategy.reduce(wishing, reduce_op="sum").tolist()]

    def _save_before_validation(self, trainer: Trainer) -> None:
        self._is_before_validation = True
        self._save(trainer)
        self._is_before_validation = False

    def _save(self, trainer: Trainer) -> None:
        if self._is_trial:
            return
        log = _metrics_log(trainer)
        self._num_metric_rows = log.num_rows if log else None
        step = trainer.global_step
        trainer.save_checkpoint(self._folder.checkpoint(step), weights_only=False)
        self._is_due, self._saved_at = False, time.monotonic()
        if trainer.is_global_zero:
            publish = partial(self._folder.publish, step, trainer.strategy.remove_checkpoint)
            writer = _background_writer(trainer)
            writer.afterwards(publish) if writer else publish()

    def _finish(self, trainer: Trainer) -> None:
        """Return on all ranks when the last checkpoint is whole: Lightning kills the first one when another fails."""
        if writer := _background_writer(trainer):
            writer.wait()
            trainer.strategy.barrier("RunCheckpoint")

    def _obey(self, trainer: Trainer) -> NoReturn:
        self._finish(trainer)
        self._stop.obey(trainer)


def _entered(num_done: int) -> dict[str, int]:
    """Return Lightning's counters of a batch that was begun: it then does this one again, the first of a validation."""
    return {"ready": num_done + 1, "started": num_done + 1, "processed": num_done, "completed": num_done}


def _metrics_log(trainer: Trainer) -> MetricsLog | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, MetricsLog)), None)


def _background_writer(trainer: Trainer) -> BackgroundCheckpointIO | None:
    """Return what writes checkpoints beside training; None where saving one returns when it is written."""
    writer = trainer.strategy.checkpoint_io
    return writer if isinstance(writer, BackgroundCheckpointIO) else None
