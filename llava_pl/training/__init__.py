"""The Lightning side of a run: what trains, how fast, what is saved.

In reading order. A step: module, stages, optim, schedule, normalization, loss_watch, seeding. Before it: rehearsal,
base_watch. A checkpoint: checkpoint, carried, checkpoint_io (checksum, background), checkpoint_folder, saving,
stopping, resplit. What a run tells: noise, callbacks, live_curve, metrics_log, wandb_run, ledger, data_count,
answering.
"""

from llava_pl.training.module import LlavaModule

__all__ = ["LlavaModule"]
