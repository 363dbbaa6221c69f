"""Less time for the same work: layers that torch compiles, in training.

In: a model of transformers. Out: the same model with the same parameters under the same names; its layers, which are
alike, share one compiled graph for whatever lengths rows and sequences have.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import torch
from torch import nn

from llava_pl.models.recompute import GradientCheckpointing, find_layers, run_layer
from llava_pl.packages import is_installed
from llava_pl.types import InputError


def compile_layers(model: nn.Module, kind: GradientCheckpointing = "none", *, backend: Any = "inductor") -> None:  # noqa: ANN401
    """Have the layers of a model compiled where gradients are recorded; elsewhere they run plainly, as in `generate`.

    There caches of keys grow by a token at a time, and would be compiled for each layer anew.

    Args:
        model: Any model of transformers.
        kind: What layers compute again in the backward pass, as `recompute_layers` has it, which the compiler is told.
        backend: As for ``torch.compile``.

    Raises:
        InputError: A model without layers that transformers knows.
    """
    layers = find_layers(model)
    if not layers:
        raise InputError(f"compile_layers: {type(model).__name__} has no layers that can be compiled; expected false")
    # One function for all layers, so that one graph serves them: their weights are its arguments.
    compiled = torch.compile(run_layer, dynamic=True, backend=backend)
    for layer in layers:
        # On the object, beneath its hooks: those of sharding strategies are not compiled.
        layer.forward = partial(_run, compiled, layer, kind)


def _run(compiled: Any, layer: nn.Module, kind: GradientCheckpointing, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    return (compiled if torch.is_grad_enabled() else run_layer)(layer, kind, *args, **kwargs)


def check_compiler(device_type: str) -> None:
    """Check that torch finds what it compiles with, before anything is loaded.

    Raises:
        InputError: It does not.
    """
    if device_type == "cuda":
        found, needs = is_installed("triton"), "the package triton"
    else:
        found, needs = any(shutil.which(name) for name in ("c++", "g++", "clang++")), "a C++ compiler, such as g++"
    if not found:
        raise InputError(
            f"compile_layers: torch compiles for {device_type} with {needs}, found none; install it, or set "
            "model.decoder.compile_layers and model.vision_encoder.compile_layers to false"
        )
