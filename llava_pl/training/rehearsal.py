"""A run without weights, before the run: settings that cannot work are found in seconds, before gigabytes are read.

In: the settings of a run. Out: nothing, or one line that says what is wrong; and for whoever counts what a run needs
(`llava_pl.planning`) its model, every shape and no weight.
"""

from __future__ import annotations

from contextlib import suppress
from typing import cast

import torch
from lightning import Trainer

from llava_pl.export.build import sketch_model
from llava_pl.export.model_config import DTYPES, DecoderConfig, ModelConfig
from llava_pl.models.adapters import LoraConfig
from llava_pl.models.compiling import check_compiler
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.float8 import check_float8
from llava_pl.models.fused import check_liger
from llava_pl.models.llava import LlavaModel
from llava_pl.training.optim import OptimConfig, build_optimizer
from llava_pl.training.stages import TrainablePlan, prepare
from llava_pl.types import InputError

FROZEN_DTYPES = {
    "32-true": tuple(DTYPES),
    "bf16-mixed": ("float32", "bfloat16"),
    "16-mixed": ("float32", "float16"),
    "bf16-true": ("float32", "bfloat16"),
    "16-true": ("float32", "float16"),
    "64-true": ("float32",),
}
"""Precisions, with the dtypes that frozen parts may be held in beside them: autocast mixes float32 with one other."""


def check_run(
    trainer: Trainer, config: ModelConfig, plan: TrainablePlan, *, lora: LoraConfig | None, optim: OptimConfig
) -> None:
    """Check that a run can work, as far as can be told without data and weights.

    Args:
        trainer: What runs it.
        config: What its model is built of.
        plan: How each part is trained.
        lora: Its adapters.
        optim: Its optimizer, where it learns.

    Raises:
        InputError: It cannot.
    """
    is_training = trainer.state.fn == "fit"
    if config.decoder.fused_kernels != "none":
        check_liger(trainer.strategy.root_device.type)
    precision = str(trainer.precision)  # on a CPU that is bf16-mixed for a 16-mixed
    check_dtypes(precision, config, plan, lora, is_training=is_training)
    if is_training and config.decoder.float8 != "none":
        check_float8(trainer.strategy.root_device, precision)
    if is_training and (config.decoder.compile_layers or config.vision_encoder.compile_layers):
        check_compiler(trainer.strategy.root_device.type)
    is_packed = is_training and getattr(trainer.datamodule, "is_packed", False)  # type: ignore[attr-defined]
    rehearse(config, plan, lora=lora, optim=optim if is_training else None, is_packed=is_packed)


def check_recompute(decoder: DecoderConfig) -> None:
    """Check that it is settled what a decoder computes again, before it is built to learn.

    Raises:
        InputError: It is not.
    """
    if decoder.gradient_checkpointing == "auto":
        raise InputError(
            "model.decoder.gradient_checkpointing: found auto, which `llava-pl fit` chooses; expected none, selective "
            "or full"
        )


def rehearse(
    config: ModelConfig,
    plan: TrainablePlan,
    *,
    lora: LoraConfig | None,
    optim: OptimConfig | None,
    is_packed: bool = False,
) -> None:
    """Build the model of a run without weights, with its adapters, and its optimizer, and give it a picture.

    Args:
        config: What it is built of.
        plan: How each part is trained.
        lora: Its adapters.
        optim: Its optimizer; None where nothing learns.
        is_packed: Whether it is given rows of several samples.

    Raises:
        InputError: A part is not there, or does not have what is asked of it.
    """
    model = sketch_run(config, plan, lora)
    if is_packed:
        cast("CausalDecoder", model.decoder).check_packing()
    if optim is not None:
        build_optimizer(model, optim, allows_fused=False)
    size = cast("int", model.vision_encoder.model.config.image_size)
    # A projector of somebody's own may look at values, which are not there; it is asked again by the first batch.
    with torch.random.fork_rng(devices=[]), torch.no_grad(), suppress(RuntimeError):
        model.encode_images(torch.empty(1, 3, size, size, device="meta"))


def sketch_run(config: ModelConfig, plan: TrainablePlan, lora: LoraConfig | None) -> LlavaModel:
    """Return the model of a run without weights, as `LlavaModule.configure_model` would make it ready for training.

    Args:
        config: What it is built of.
        plan: How each part is trained.
        lora: Its adapters.

    Raises:
        InputError: A part is not there, or does not have what is asked of it.
    """
    # The run draws the numbers that it would have drawn; adapters are made as empty as their part.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = sketch_model(config)
        prepare(model, plan, lora)
    return model


def check_dtypes(
    precision: str, config: ModelConfig, plan: TrainablePlan, lora: LoraConfig | None, *, is_training: bool
) -> None:
    """Check that a precision of Lightning's goes with a model, and with what of it learns.

    Args:
        precision: As the trainer uses it.
        config: What the model is built of.
        plan: How each part is trained.
        lora: Its adapters.
        is_training: Whether it learns at all.

    Raises:
        InputError: It does not.
    """
    check_precision(precision, config.frozen_dtype, is_training=is_training)
    if precision == "32-true" and config.frozen_dtype != "float32":
        _check_unmixed(config, plan, lora)


def check_precision(precision: str, frozen_dtype: str, *, is_training: bool) -> None:
    """Check that a precision of Lightning's goes with the dtype of frozen parts.

    Args:
        precision: As the trainer uses it.
        frozen_dtype: Of the weights that do not learn.
        is_training: Whether any learn.

    Raises:
        InputError: It does not, is none that this project has, or would lose what is learned.
    """
    if precision not in FROZEN_DTYPES:
        raise InputError(f"trainer.precision: expected one of {', '.join(FROZEN_DTYPES)}, found {precision}")
    if is_training and precision == "16-true":
        raise InputError(
            "trainer.precision: found 16-true, which holds what learns in float16, where the updates of an optimizer "
            "vanish or become NaN; choose 16-mixed or bf16-mixed, and model.frozen_dtype for the memory"
        )
    if frozen_dtype not in FROZEN_DTYPES[precision]:
        raise InputError(
            f"model.frozen_dtype: expected {' or '.join(FROZEN_DTYPES[precision])} with trainer.precision {precision}, "
            f"found {frozen_dtype}; change one of the two"
        )


def _check_unmixed(config: ModelConfig, plan: TrainablePlan, lora: LoraConfig | None) -> None:
    """Check that no layer would meet two dtypes where nothing brings them together, as autocast does.

    Raises:
        InputError: What learns, in float32, lies in the midst of what is frozen, in another dtype.
    """
    found = None
    is_alone = (plan.decoder == "full") != (plan.embeddings == "full")
    if is_alone and config.decoder.quantization == "none":  # a quantized decoder takes float32
        found = "only one of decoder and word embeddings is trained in full"
    if lora is not None and lora.bias != "none":
        found = "biases learn beside frozen weights"
    if found:
        raise InputError(
            f"model.frozen_dtype: expected float32 with trainer.precision 32-true where {found}, found "
            f"{config.frozen_dtype}; change it, or choose bf16-mixed"
        )
