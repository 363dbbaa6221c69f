"""A checkpoint for a run that splits its global batches otherwise: over other ranks, or into other micro batches.

In: what Lightning has read from the file. Out: the same, its counters as if the run had been split like this from the
beginning.

The k-th global batch holds the same samples in every split (see `data/sampler.py`), so only what counts micro batches
must change: Lightning's progress within the epoch, and the position of the loader. Steps, learning rates and the log
count global batches, and stay as they are.
"""

from __future__ import annotations

from typing import Any

from lightning import Trainer

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.training.schedule import count_epoch_batches


def resplit(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Count a checkpoint's micro batches anew, before Lightning takes its counters over.

    Each later step learns from the samples that it would have learned from; with "global" loss normalization and no
    dropout its gradient is the same but for rounding. What depends on the split remains so: dropout (each rank draws
    its own), the samples that fill up the ranks at the end of an epoch (those of the ranks that end it), and settings
    that count micro batches (``val_check_interval`` and ``limit_train_batches`` as whole numbers).

    Nothing is changed where the split is the same, nor where the number of samples in a global batch is another one,
    which the loader refuses.

    Args:
        checkpoint: What is changed in place. A step that was not complete is begun anew; `RunCheckpoint` saves none.
        trainer: Of the run that goes on.
    """
    fit_loop, data = checkpoint["loops"]["fit_loop"], getattr(trainer, "datamodule", None)
    num_epoch_batches = count_epoch_batches(trainer)
    position = (fit_loop["state_dict"].get("combined_loader") or [{}])[0]
    if not isinstance(data, ConversationDataModule) or num_epoch_batches is None or "num_micro_batches" not in position:
        return
    batch_size, num_micro_batches = data.batch_size * trainer.world_size, trainer.accumulate_grad_batches
    saved = position["batch_size"], position["num_micro_batches"]
    if saved == (batch_size, num_micro_batches) or saved[0] * saved[1] != batch_size * num_micro_batches:
        return
    progress = fit_loop["epoch_loop.batch_progress"]
    num_steps = position["num_done"] // saved[1]
    # At the end of an epoch a step may have fewer micro batches than the others.
    num_done = num_epoch_batches if progress["is_last_batch"] else min(num_steps * num_micro_batches, num_epoch_batches)
    position.update(num_done=num_done, batch_size=batch_size, num_micro_batches=num_micro_batches)
    for name, num_before in (("current", 0), ("total", position["epoch"] * num_epoch_batches)):
        counts = progress[name]
        shift = num_before + num_done - counts["ready"]
        counts.update({stage: count + shift for stage, count in counts.items()})
