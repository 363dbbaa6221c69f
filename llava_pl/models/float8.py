"""Less time for less exactness: matrix products of a decoder's layers in 8-bit floats, by torchao.

In: a model of transformers. Out: the same model with the same parameters under the same names, whose layers round what
they multiply to 8 bits, forward and backward, with a scale for each tensor or for each of its rows. Weights and their
gradients stay in their own dtype; head, embeddings and whatever lies outside of the decoder are left alone. Results
differ by much more than roundings of bfloat16. Not run on a GPU yet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from llava_pl.models.adapters import is_adapter
from llava_pl.models.recompute import find_layers
from llava_pl.packages import is_installed
from llava_pl.types import InputError

Float8 = Literal["none", "tensorwise", "rowwise"]

LEAST_CAPABILITY = (8, 9)
"""Of an NVIDIA GPU that multiplies 8-bit floats: Ada and Hopper, and what came after them."""
MULTIPLE = 16
"""What sizes have to be multiples of."""


def check_float8(device: torch.device, precision: str) -> None:
    """Check that torchao is installed and has a device to run on, before anything is loaded.

    Args:
        device: Of the run.
        precision: Of the run: a GPU hands on products of 8-bit floats in bfloat16, whatever scales they have.

    Raises:
        InputError: It is not, or has not.
    """
    if not precision.startswith("bf16"):
        raise InputError(
            f"model.decoder.float8: expected trainer.precision bf16-mixed or bf16-true, found {precision}; change it, "
            "or set it to none"
        )
    if not is_installed("torchao"):
        raise InputError(
            "model.decoder.float8: needs torchao, which is not installed; pip install -e '.[float8]' in the "
            "checkout, or set it to none"
        )
    found = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if found is None or found < LEAST_CAPABILITY:
        name = device.type if found is None else f"one of compute capability {found[0]}.{found[1]}"
        least = ".".join(map(str, LEAST_CAPABILITY))
        raise InputError(
            f"model.decoder.float8: expected a GPU of compute capability {least} or more, found {name}; set it to none"
        )


def multiply_in_float8(model: nn.Module, scales: Float8, *, emulates: bool = False) -> None:
    """Have the linear layers of a decoder's blocks multiply in 8-bit floats.

    Those with a side that is no multiple of 16 are left as they are.

    Args:
        model: A decoder of transformers.
        scales: "tensorwise": a scale for each tensor, which is faster; "rowwise": for each row, which is more exact.
        emulates: Multiply in the dtype at hand what was rounded to 8 bits, on devices that cannot do it.

    Raises:
        InputError: As of `check_sides`.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # The number of tokens is a side, too, of the products that make gradients of weights; it is padded.
    config = replace(Float8LinearConfig.from_recipe_name(scales), emulate=emulates, pad_inner_dim=True)
    check_sides(model)
    for layer in find_layers(model):
        convert_to_float8_training(layer, config=config, module_filter_fn=_is_fit)


def check_sides(model: nn.Module) -> None:
    """Check that a decoder has layers that can multiply in 8-bit floats; it needs no weights.

    Raises:
        InputError: It has none.
    """
    if not any(_is_fit(part, name) for layer in find_layers(model) for name, part in layer.named_modules()):
        raise InputError(
            f"model.decoder.float8: {type(model).__name__} has no layers with sides that are multiples of {MULTIPLE}; "
            "set it to none"
        )


def _is_fit(part: nn.Module, name: str) -> bool:
    if not isinstance(part, nn.Linear) or is_adapter(name):
        return False
    return part.in_features % MULTIPLE == 0 and part.out_features % MULTIPLE == 0
