"""A decoder whose blocks are held in 4 or 8 bits: what may be so, and what must not.

In: the model as transformers and bitsandbytes load it. Out: the same model, ready for adapters, or a refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from importlib import import_module
from typing import Any, Literal

from torch import nn

from llava_pl.packages import is_installed
from llava_pl.types import InputError

Quantization = Literal["none", "nf4", "fp4", "int8"]

NOISE = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # a faster kernel that is not on PyPI
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",  # as in any use of 8 bits
}
"""Loggers of bitsandbytes with how the messages begin that say nothing of use."""


def silence_bitsandbytes() -> None:
    """Keep the known noise of bitsandbytes off the terminal; call it before its first import."""
    for name in NOISE:
        logging.getLogger(name).addFilter(_is_worth_reading)  # a second time changes nothing


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE[record.name])


def require_bitsandbytes(field: str) -> None:
    """Check that bitsandbytes is installed.

    Raises:
        InputError: It is not.
    """
    if not is_installed("bitsandbytes"):
        raise InputError(f"{field}: needs bitsandbytes, not installed; pip install -e '.[qlora]' in the checkout")
    silence_bitsandbytes()


def is_quantized(module: nn.Module) -> bool:
    """Whether a layer holds its weight in 4 or 8 bits."""
    return type(module).__module__.startswith("bitsandbytes.")


def prepare_quantized(model: nn.Module) -> None:
    """Freeze a quantized model and raise what is left of 16 bits (norms, embeddings, head) to float32."""
    silence_bitsandbytes()
    from peft import prepare_model_for_kbit_training

    prepare: Any = prepare_model_for_kbit_training
    prepare(model, use_gradient_checkpointing=False)  # set elsewhere, for every decoder
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On such a CPU a forward pass without gradients (a validation, say) would pack the weights for good into a
            # form through which no gradient flows: training would go on, and learn from a part of it.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def quantize_blocks(decoder: nn.Module, kind: Quantization, *, plain: Collection[nn.Module]) -> None:
    """Hold the linear layers of a loaded decoder's blocks in 4 or 8 bits, to be asked and not to be trained.

    Their numbers are those of a decoder that is read so. Call it where the weights shall stay: what is computed of them
    has the dtype that they have now.

    Args:
        decoder: Whose weights are whole.
        kind: "nf4", "fp4" or "int8"; nothing is done for "none".
        plain: Layers of it that stay as they are: head and embeddings.
    """
    if kind == "none":
        return
    kept = {id(module) for module in plain}
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear) and id(module) not in kept:
            place, _, own = name.rpartition(".")
            setattr(decoder.get_submodule(place), own, _quantize(module, kind))


def _quantize(module: nn.Linear, kind: Quantization) -> nn.Module:
    silence_bitsandbytes()
    layers: Any = import_module("bitsandbytes.nn")  # without types
    weight = module.weight.detach()
    size = (module.in_features, module.out_features, module.bias is not None)
    if kind == "int8":
        layer = layers.Linear8bitLt(*size, has_fp16_weights=False, threshold=6.0, device="meta")
        held = layers.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        options = {"quant_type": kind, "compress_statistics": False}
        layer = layers.Linear4bit(*size, compute_dtype=weight.dtype, device="meta", **options)
        held = layers.Params4bit(weight.cpu(), requires_grad=False, module=layer, **options)
    layer.weight, layer.bias = held.to(weight.device), module.bias  # it is quantized on its way
    found: nn.Module = layer.eval()
    return found


def check_quantized(model: nn.Module, decoder: nn.Module, *, plain: Collection[nn.Module]) -> None:
    """Check that the linear layers of the decoder's blocks are quantized, all of them, and that nothing else is.

    transformers decides which layers it leaves alone, and has changed its mind between versions (5 no longer honours
    the names that the original hands it), so the built model is looked at.

    Args:
        model: The whole model.
        decoder: The part that may hold quantized layers.
        plain: Layers of it that must not be: head and embeddings.

    Raises:
        InputError: A layer is quantized and must not be, or should be and is not.
    """
    kept = {id(module) for module in plain}
    expected = {id(m) for m in decoder.modules() if isinstance(m, nn.Linear) and id(m) not in kept}
    for name, module in model.named_modules():
        if is_quantized(module) != (id(module) in expected):
            found = "is" if is_quantized(module) else "is not"
            raise InputError(
                f"model.decoder.quantization: {name} {found} quantized, as this version of transformers loads it; "
                "expected the linear layers of the decoder's blocks, and these alone"
            )
