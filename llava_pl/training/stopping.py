"""How a run ends when it is told to.

In: SIGTERM and SIGUSR1. Out: a request that is granted once the step is complete and saved (see `saving.py`).
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any, NoReturn

from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a cluster sends before it kills; SLURM lets the user choose the second."""


class StopRequest:
    """A signal that was received, if any.

    Args:
        resume_command: What is shown to the user as the way to go on.
    """

    def __init__(self, resume_command: str) -> None:
        self._resume_command = resume_command
        self._number: int | None = None

    @property
    def is_made(self) -> bool:
        """Whether a signal came."""
        return self._number is not None

    def listen(self, trainer: Trainer) -> None:
        """Take the signals over from Lightning, which restores what was there before when the run ends.

        Lightning would end the run after a micro batch, save nothing, and report success.
        """
        if trainer.received_sigterm:  # while the run was prepared
            self._number = signal.SIGTERM
            trainer._signal_connector.received_sigterm = False
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, _: Any) -> None:  # noqa: ANN401
        # Nothing but a note: whatever runs now, a save perhaps, is finished first. Another signal changes nothing.
        self._number = self._number or number

    def obey(self, trainer: Trainer) -> NoReturn:
        """End the run with the status that shells give to its signal.

        Raises:
            SystemExit: Always. On a rank that got no signal itself, with the status of SIGTERM.
        """
        number = signal.Signals(self._number or signal.SIGTERM)
        if trainer.is_global_zero:
            sys.stderr.write(f"llava-pl: stopped by {number.name} after step {trainer.global_step}, which is saved\n")
            self.say_how_to_resume()
        raise SystemExit(128 + number)

    def say_how_to_resume(self) -> None:
        """Show the command."""
        if self._resume_command:
            sys.stderr.write(f"llava-pl: resume with: {self._resume_command}\n")


def leave_queue_to_job(trainer: Trainer) -> None:
    """Keep Lightning from requeueing a SLURM job at SIGUSR1: the job's script does it, by the run's status.

    Lightning would save within a micro batch, into a file that it prefers to any other ever after, and train on.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False
