"""A configuration to runs that must give the same numbers: one process, and others that split its steps otherwise.

In: options of `llava-pl fit`. Out: the splits to compare, and for each what it changes in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import torch

from llava_pl.app.load_data import RunSettings, load_run
from llava_pl.app.verify.invariance_splits import (
    Split,
    Validation,
    choose_ranks,
    count_steps,
    split_step,
    split_validation,
)
from llava_pl.planning.spread import count_devices
from llava_pl.types import InputError

TOLERANCES = {"64-true": 1e-6, "32-true": 1e-5, "bf16-mixed": 5e-3, "16-mixed": 5e-3, "bf16-true": 2e-2}
"""Relative, by `trainer.precision`; the log keeps float32.

Measured on tiny models: at most 2e-7 in float32 and float64, 2e-4 in bf16-mixed, 6e-3 in bf16-true, whose gradient norm
is a bfloat16. A mean of means differs by 4e-3 there, so that float32 alone is sharp.
"""

COARSE_TOLERANCES = {"model.frozen_dtype": 5e-3, "float32_matmul_precision": 5e-3, "model.decoder.quantization": 2e-2}
"""The same, where float32 is chosen, and something is computed in less."""

SHARP = "--trainer.precision 32-true --model.frozen_dtype float32 --float32_matmul_precision highest"
"""What a user adds for the smallest tolerance."""

MICRO_BATCH_NOTE = (
    "model.loss_normalization micro_batch is a mean of the micro batches' own means: by definition it depends on how a "
    "step is split, and is expected to differ; --model.loss_normalization global verifies all else"
)


@dataclass(frozen=True, slots=True)
class InvariancePlan:
    """What is run and how it is judged.

    Args:
        splits: One process first, with which the others are compared.
        num_steps: Optimizer steps of each run.
        validation: What follows them.
        tolerance: The largest relative difference that passes.
        reason: Why it is this one.
        notes: What the user should know of the comparison.
        shared: What all runs change in the configuration.
        devices: Those that the configuration names one by one.
    """

    splits: tuple[Split, ...]
    num_steps: int
    validation: Validation
    tolerance: float
    reason: str
    notes: tuple[str, ...]
    shared: dict[str, Any]
    devices: tuple[int, ...] = ()

    def settings(self, split: Split, run_dir: Path) -> dict[str, Any]:
        """Return the last `--config` of a run."""
        trainer = {
            **self.shared["trainer"],
            "devices": list(self.devices[: split.num_ranks]) or split.num_ranks,
            "accumulate_grad_batches": split.num_micro_batches,
            "max_steps": self.num_steps,
            "val_check_interval": self.num_steps * split.num_micro_batches,  # once, after the last step
            "limit_val_batches": self.validation.limit(split.num_ranks),
        }
        if split.num_ranks == 1:
            trainer["strategy"] = "auto"  # nothing is shared: the numbers that every strategy has to give
        data = {"batch_size": split.batch_size, "eval_batch_size": self.validation.batch_size}
        return {**self.shared, "run_dir": str(run_dir), "data": {"init_args": data}, "trainer": trainer}


def plan_invariance(
    words: Sequence[str],
    *,
    ranks: Sequence[int] | None = None,
    num_steps: int = 4,
    num_validated: int = 64,
    tolerance: float | None = None,
) -> InvariancePlan:
    """Return the runs that show whether a configuration is invariant; its data is read and counted on the way.

    Args:
        words: Options of `llava-pl fit`.
        ranks: Numbers of processes to compare with one; by default as many as there are GPUs, or 2 on a CPU.
        num_steps: Optimizer steps of each run at most.
        num_validated: Samples of validation, of each loader.
        tolerance: The largest relative difference that passes; by default one that fits the precision.

    Raises:
        InputError: The configuration is wrong, or asks for more than the machine or the data has.
    """
    run = load_run(words)
    given, data, notes = run.config.trainer, run.data, _note_normalization(run)
    if run.config.ckpt_path:
        raise InputError(
            f"ckpt_path: {run.config.ckpt_path}: expected none, because each run begins anew; "
            "give the weights to start from as --model.init_from"
        )
    devices = tuple(given.devices) if isinstance(given.devices, list) else ()
    num_gpus = torch.cuda.device_count() if given.accelerator in ("auto", "gpu", "cuda") else 0
    ranks = choose_ranks(ranks, len(devices) or num_gpus)
    num_micro_batches = count_devices(given.devices, max(1, num_gpus)) * given.num_nodes * given.accumulate_grad_batches
    splits = split_step(num_micro_batches, data.batch_size, ranks)
    if len(splits) == 1:
        raise InputError("--ranks: expected more than 1 where data.batch_size is 1, found 1; nothing would be compared")
    if (step_size := splits[0].step_size) > num_micro_batches * data.batch_size:
        notes.append(
            f"a step has {step_size} samples here, {num_micro_batches * data.batch_size} in the configuration: its "
            f"micro batches must be a multiple of {lcm(*ranks)}"
        )
    if data.batch_size == 1:
        notes.append("data.batch_size is 1, so that no smaller micro batches are compared")
    shared = _share_settings(run, notes)
    data.setup("fit")
    num_taken = count_steps(num_steps, num_samples := len(data.train_records), step_size)
    if num_taken < num_steps:
        notes.append(
            f"{num_taken} steps instead of {num_steps}: an epoch has {num_samples} samples, a step {step_size}"
        )
    num_val = max((len(dataset) for dataset in data.val_datasets), default=0)  # type: ignore[arg-type]
    if not num_val:
        notes.append("nothing is validated: data.val_records is not given")
    standard, reason = _choose_tolerance(run)
    if tolerance is None and standard > TOLERANCES["32-true"]:
        notes.append(f"{reason} hides small differences; {SHARP} looks closer, where memory allows it")
    return InvariancePlan(
        splits=splits,
        num_steps=num_taken,
        validation=split_validation(num_val, data.eval_batch_size, num_validated, ranks),
        tolerance=standard if tolerance is None else tolerance,
        reason=reason if tolerance is None else "--tolerance",
        notes=tuple(notes),
        shared=shared,
        devices=devices,
    )


def _note_normalization(run: RunSettings) -> list[str]:
    return [MICRO_BATCH_NOTE] if run.module.loss_normalization == "micro_batch" else []


def _share_settings(run: RunSettings, notes: list[str]) -> dict[str, Any]:
    """Return what all runs change: nothing is drawn, nothing leaves their folder, each step is logged."""
    model: dict[str, Any] = {}
    because = "what is dropped is drawn anew by each rank and micro batch"
    if (lora := run.module.lora) is not None and lora.dropout:
        notes.append(f"model.lora.dropout is 0 here, {lora.dropout} in the configuration: {because}")
        model["lora"] = {"dropout": 0.0}
    options = run.module.model_config.projector_options or {}
    if run.module.model_config.projector == "qformer" and options.get("dropout") != 0:
        notes.append(f"the projector's dropout is 0 here: {because}")
        model["projector_options"] = {**options, "dropout": 0.0}
    if (float8 := run.module.model_config.decoder.float8) != "none":
        because = "its scales are those of a whole micro batch"
        notes.append(f"model.decoder.float8 is none here, {float8} in the configuration: {because}")
        model["decoder"] = {"float8": "none"}
    if isinstance(run.config.seed_everything, bool):
        notes.append("seed_everything is 0 here: each run would draw other weights")
    if run.config.trainer.callbacks:
        notes.append("trainer.callbacks take no part: they may end a run, or write elsewhere")
    trainer = {
        "num_nodes": 1, "default_root_dir": None, "logger": None, "callbacks": None, "profiler": None,
        "log_every_n_steps": 1, "enable_progress_bar": False, "enable_checkpointing": None, "fast_dev_run": False,
        "overfit_batches": 0.0, "limit_train_batches": 1.0, "num_sanity_val_steps": 0, "check_val_every_n_epoch": 1,
        "max_epochs": 1, "max_time": None, "min_epochs": None, "min_steps": None,
    }  # fmt: skip
    saving = {
        "save_every_n_steps": None,
        "save_every_minutes": None,
        "save_in_background": False,
        "keep_checkpoints": 1,
    }
    seed = 0 if isinstance(run.config.seed_everything, bool) else run.config.seed_everything
    return {**saving, "seed_everything": seed, "trainer": trainer, **({"model": model} if model else {})}


def _choose_tolerance(run: RunSettings) -> tuple[float, str]:
    """Return the tolerance that fits what a run computes in, and what that is."""
    precision, config = str(run.config.trainer.precision or "32-true"), run.module.model_config
    precision = {"32": "32-true", "64": "64-true"}.get(precision, precision)
    found = {
        "model.decoder.quantization": (config.decoder.quantization, "none"),
        "model.frozen_dtype": (config.frozen_dtype, "float32"),
        "float32_matmul_precision": (run.config.float32_matmul_precision, "highest"),
    }
    reasons = {f"trainer.precision {precision}": TOLERANCES.get(precision, max(TOLERANCES.values()))}
    reasons |= {f"{name} {value}": COARSE_TOLERANCES[name] for name, (value, exact) in found.items() if value != exact}
    strategy = str(getattr(run.config.trainer.strategy, "class_path", run.config.trainer.strategy)).lower()
    if precision.endswith("-mixed") and ("deepspeed" in strategy or "zero" in strategy):
        # DeepSpeed has no autocast: its ranks compute all in half precision, one process alone does not.
        reasons = {f"trainer.precision {precision} under DeepSpeed": TOLERANCES["bf16-true"]}
    reason = max(reasons, key=reasons.__getitem__)
    return reasons[reason], reason
