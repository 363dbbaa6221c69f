"""The base models of a run, hashed beside its work.

In: where they are. Out: their hashes, for its checkpoints; and a stop, if it goes on with a checkpoint that was trained
upon others.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from threading import Thread
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from llava_pl.export.bases import check_base, describe_base, name_of
from llava_pl.export.pretrained import BaseModel
from llava_pl.types import Batch


class BaseModels(Callback):
    """Hashes the base models in a thread, once, and compares them with those of a checkpoint as soon as they are known.

    A run does not wait for that before its first save, an evaluation not before its scores. One process of each machine
    is enough, because they read the same files.

    Args:
        paths: Where the base model of each part is.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = dict(paths)
        self._hashed: Future[dict[str, BaseModel]] | None = None  # made with the thread
        self._expected: Mapping[str, BaseModel] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy of this, in another process or in an average of the module, starts with."""
        return {**vars(self), "_hashed": None}

    def start(self) -> None:
        """Begin to hash, if nobody has yet."""
        if self._hashed is None:
            self._hashed = Future()
            # A thread that a program which ends does not wait for.
            Thread(target=_hash, args=(self._paths, self._hashed), name="bases", daemon=True).start()

    def expect(self, bases: Mapping[str, BaseModel], *, waits: bool = False) -> None:
        """Say which base models a checkpoint was trained upon; as `check`."""
        self._expected = bases
        self.start()
        self.check(waits=waits)

    def describe(self) -> dict[str, BaseModel]:
        """Return name and hash of each, once they are known.

        Raises:
            InputError: They are not those that the checkpoint was trained upon.
        """
        self.start()
        self.check(waits=True)
        assert self._hashed is not None
        return self._hashed.result()

    def check(self, *, waits: bool) -> None:
        """Compare with what a checkpoint was trained upon.

        Args:
            waits: Until the hashes are known; otherwise they are compared some other time.

        Raises:
            InputError: They are others.
        """
        if not self._expected or self._hashed is None or not (waits or self._hashed.done()):
            return
        for part, base in self._hashed.result().items():
            check_base(part, self._expected.get(part), base, "checkpoint")
        self._expected = {}

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Stop a run whose base models are others."""
        self.check(waits=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it at the latest here, if it saves nothing."""
        self.check(waits=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no score of another model through."""
        self.check(waits=trainer.state.fn != "fit")

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end


def _hash(paths: Mapping[str, str], hashed: Future[dict[str, BaseModel]]) -> None:
    found = {}
    for part, path in paths.items():
        try:
            found[part] = describe_base(path)
        except Exception as error:  # whatever it is, a run is not lost for it, nor waits forever
            found[part] = BaseModel(name_of(path), path=path)
            reason = " ".join(str(error).split())
            rank_zero_warn(f"model.{part}.path: {path}: cannot be hashed, checkpoints will not tell its hash: {reason}")
    hashed.set_result(found)
