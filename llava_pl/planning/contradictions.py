"""What does not go together in a configuration, and would be found out hours later or never.

In: the merged configuration, its files and what was counted from it. Out: one line each, none where all is well. What
the parser, the classes and the model refuse is said by them; here is what none of them can see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.accelerators import AcceleratorRegistry

from llava_pl.export.part_configs import read_decoder_config
from llava_pl.planning.spread import Spread, count_devices, read_precision
from llava_pl.training.feature_cache import check_frozen
from llava_pl.training.feature_worth import FeatureWorth
from llava_pl.training.module import LlavaModule
from llava_pl.training.rehearsal import check_dtypes
from llava_pl.training.sharding import check_shardable
from llava_pl.training.zero import check_zero
from llava_pl.types import InputError


def global_batch(trainer: Any, batch_size: int) -> int:  # noqa: ANN401  a mapping of Trainer's arguments
    """Return the samples of an optimizer step.

    >>> global_batch({"devices": 4, "accumulate_grad_batches": 2}, 16)
    128
    """
    devices = count_devices(trainer["devices"]) * int(trainer.get("num_nodes") or 1)
    return batch_size * devices * int(trainer.get("accumulate_grad_batches") or 1)


def check_global_batch(files: Sequence[str | Path], found: int) -> list[str]:
    """Compare the samples of a step with what the experiment means: the first file that has all of their factors.

    Args:
        files: Those given to ``--config``, in order.
        found: Samples of a step of the merged configuration.
    """
    for path in files:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if Path(path).is_file() else None
        groups = settings if isinstance(settings, Mapping) else {}
        trainer, data = groups.get("trainer") or {}, groups.get("data") or {}
        size = (data.get("init_args") or data).get("batch_size")
        if size is None or "devices" not in trainer or trainer["devices"] in ("auto", -1, "-1"):
            continue
        if (expected := global_batch(trainer, int(size))) != found:
            return [
                f"{path}: expected its {expected} samples in a step, found {found}; change data.batch_size, "
                "trainer.devices or trainer.accumulate_grad_batches so that their product is that again"
            ]
        return []
    return []


def check_strategy(spread: Spread, module: LlavaModule, trainer: Any) -> list[str]:  # noqa: ANN401  a namespace
    """Check what a strategy can divide and what goes with a precision, as `fit` does, and that devices are counted.

    Args:
        spread: How the run is spread.
        module: Whose settings are looked at.
        trainer: Settings of the trainer.
    """
    lines = _refusals(
        check_dtypes,
        read_precision(trainer.precision),
        module.model_config,
        module.plan,
        module.lora,
        is_training=True,
    )
    if spread.name == "fsdp2":
        lines += _refusals(check_shardable, module.model_config.decoder.quantization, module.optim_config.optimizer)
    if spread.is_zero:
        lines += _refusals(
            check_zero,
            module,
            stage=2 if spread.weights == "whole" else 3,
            offload=spread.states == "host",
            clip_algorithm=trainer.gradient_clip_algorithm,
        )
    if not spread.is_known:
        lines.append(
            f"trainer.strategy: found {spread.name}, which is not known here; the plan is for a copy of the model on "
            "each device; use one of configs/strategy/"
        )
    if spread.name == "single" and spread.num_ranks > 1:
        lines.append(f"trainer.strategy: expected one device for SingleDeviceStrategy, found {spread.num_ranks}")
    if str(trainer.devices) in ("auto", "-1"):
        lines.append(
            f"trainer.devices: found {trainer.devices}, which each machine reads otherwise; here it is 1, give a number"
        )
    return lines


def check_trainer(trainer: Any) -> list[str]:  # noqa: ANN401  a namespace
    """Check that a run takes a step and that its kind of device exists: the Trainer would, and no plan builds one.

    >>> from types import SimpleNamespace
    >>> check_trainer(SimpleNamespace(max_epochs=0, max_steps=-1, accelerator="cpu"))
    ['trainer.max_epochs: expected at least 1, or -1 for no end of its own, found 0']
    """
    lines = [
        f"trainer.{name}: expected at least 1, or -1 for no end of its own, found {value}"
        for name, value in (("max_epochs", trainer.max_epochs), ("max_steps", trainer.max_steps))
        if value is not None and value != -1 and value < 1
    ]
    known = sorted({"auto", "gpu", *AcceleratorRegistry.available_accelerators()})
    if isinstance(trainer.accelerator, str) and trainer.accelerator not in known:
        lines.append(f"trainer.accelerator: expected one of {', '.join(known)}, found {trainer.accelerator!r}")
    return lines


def check_features(spread: Spread, module: LlavaModule, worth: FeatureWorth | None, *, is_checked: bool) -> list[str]:
    """Check that a run can have a store of features, and gains by one that has all, as `fit` does.

    Args:
        spread: How the run is spread.
        module: Whose settings are looked at.
        worth: What the run would do without; None where that is not known.
        is_checked: Whether the store must pay.
    """
    lines = _refusals(check_frozen, module, is_zero=spread.is_zero)
    return lines or (_refusals(worth.check, 0) if worth is not None and is_checked else [])


def check_lengths(path: str, *, longest: int, is_known: bool, num_image_tokens: int) -> list[str]:
    """Check samples against the positions that a decoder was trained with.

    Args:
        path: Of the decoder.
        longest: Positions of the longest sample, or of the longest one that may be.
        is_known: Whether it is there.
        num_image_tokens: Those of the largest picture.
    """
    lines = []
    positions = getattr(read_decoder_config(path).get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        what = "the longest sample" if is_known else "data.max_length"
        lines.append(
            f"data.max_length: {what} has {longest} positions, but {path} knows {positions} "
            f"(max_position_embeddings); set it to {positions}"
        )
    if not is_known and num_image_tokens >= longest:
        lines.append(
            f"data.max_length: {longest} positions leave no room for text beside the {num_image_tokens} image tokens "
            "of a picture; raise it, or choose a projector that makes fewer of them"
        )
    return lines


def check_steps(num_samples: int | None, samples_per_step: int) -> list[str]:
    """Check that the samples make a step.

    >>> check_steps(100, 256)[0].partition(";")[0]
    'data.records: an epoch has 100 samples, fewer than the 256 of a step'
    """
    if num_samples is None or num_samples >= samples_per_step:
        return []
    return [
        f"data.records: an epoch has {num_samples} samples, fewer than the {samples_per_step} of a step; lower "
        "data.batch_size or trainer.accumulate_grad_batches"
    ]


def _refusals(check: Callable[..., None], *args: Any, **kwargs: Any) -> list[str]:  # noqa: ANN401  those of the check
    """Return what a check of `fit` says; nothing if it passes."""
    try:
        check(*args, **kwargs)
    except InputError as error:
        return [str(error)]
    return []
