"""Patch features to image features: the small trained bridge between eye and language.

In: ``patch_features`` ``(N, patches, D_v)``. Out: ``image_features`` ``(N, P, D)``. How many P is, the projector says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from llava_pl.types import InputError

CONNECTORS = {
    "qformer": "llava_pl.models.connectors.QFormer",
    "resampler": "llava_pl.models.connectors.Resampler",
    "pixel_shuffle": "llava_pl.models.connectors.PixelShuffle",
}
"""Short names of classes. What a class must have, docs/connectors.md says; any other is named in full."""

GIVEN = frozenset({"vision_width", "decoder_width", "num_patches"})
"""Arguments of classes that are no options."""

ORIGINAL_KINDS = re.compile(r"linear|identity|mlp[1-9]\d*x_gelu")
"""What the original's `mm_projector_type` may be here: one image token for each patch feature."""


def build_projector(
    kind: str,
    *,
    vision_width: int,
    decoder_width: int,
    num_patches: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a freshly initialised projector.

    The parameter names of the first three kinds are those of the original's `mm_projector`.

    Args:
        kind: "linear" (LLaVA), "mlp2x_gelu" (LLaVA-1.5; any depth: "mlp{N}x_gelu"), "identity", a name in `CONNECTORS`,
            or the full name of a class.
        vision_width: D_v.
        decoder_width: D.
        num_patches: Patch features per picture, for classes that ask for them.
        options: Further arguments of the class.

    Raises:
        InputError: An unknown kind, options that it does not take, or "identity" between different widths.

    >>> [type(layer).__name__ for layer in build_projector("mlp2x_gelu", vision_width=4, decoder_width=8)]
    ['Linear', 'GELU', 'Linear']
    """
    if taken := sorted(GIVEN & (options or {}).keys()):
        raise InputError(f"model.projector_options: {', '.join(taken)}: given by encoder and decoder; leave it out")
    if (connector := find_connector(kind)) is not None:
        arguments = {"vision_width": vision_width, "decoder_width": decoder_width, **(options or {})}
        signature = inspect.signature(connector)
        if "num_patches" in signature.parameters:
            arguments["num_patches"] = num_patches
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise InputError(f"model.projector_options: {kind}: {error}") from error
        return connector(**arguments)
    if options:
        raise InputError(f"model.projector_options: {kind} takes none, found {', '.join(options)}")
    if kind == "linear":
        return nn.Linear(vision_width, decoder_width)
    if kind == "identity":
        if vision_width != decoder_width:
            raise InputError(
                f"model.projector: 'identity' needs equal widths, found an encoder of {vision_width} "
                f"and a decoder of {decoder_width}; use 'linear' or 'mlp2x_gelu'"
            )
        return nn.Identity()
    layers: list[nn.Module] = [nn.Linear(vision_width, decoder_width)]
    for _ in range(1, int(kind.removeprefix("mlp").removesuffix("x_gelu"))):
        layers += [nn.GELU(), nn.Linear(decoder_width, decoder_width)]
    return nn.Sequential(*layers)


def find_connector(kind: str) -> type[nn.Module] | None:
    """Return the class that a kind of projector names, None for a kind of the original's.

    Raises:
        InputError: There is no such kind or class.
    """
    if ORIGINAL_KINDS.fullmatch(kind):
        return None
    module_name, _, class_name = CONNECTORS.get(kind, kind).rpartition(".")
    if not module_name:
        raise InputError(
            "model.projector: expected linear, mlp{N}x_gelu (such as mlp2x_gelu), identity, "
            f"{', '.join(CONNECTORS)} or the full name of a class, found {kind!r}"
        )
    try:
        found = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: no name of Python's
        raise InputError(
            f"model.projector: {kind}: expected a class that Python can import, but {error}; "
            "install its package, or put its folder on PYTHONPATH"
        ) from error
    if not (inspect.isclass(found) and issubclass(found, nn.Module) and hasattr(found, "count_image_tokens")):
        raise InputError(f"model.projector: {kind}: expected a torch.nn.Module with a method count_image_tokens")
    return found


def count_image_tokens(projector: nn.Module, num_patches: int) -> int:
    """Return P, the image tokens that a projector makes of the patch features of a picture or tile.

    A projector without a method of this name makes one of each.

    >>> count_image_tokens(nn.Linear(4, 8), 576)
    576
    """
    count = getattr(projector, "count_image_tokens", None)
    return num_patches if count is None else int(count(num_patches))


def keeps_grid(projector: nn.Module | type[nn.Module]) -> bool:
    """Return whether image tokens lie as the patches of the picture do, row by row.

    A class with a method ``count_image_tokens`` says so with ``keeps_grid = True``; others make one of each patch.

    >>> keeps_grid(nn.Linear(4, 8))
    True
    """
    return bool(getattr(projector, "keeps_grid", not hasattr(projector, "count_image_tokens")))


def check_keeps_grid(kind: str) -> None:
    """Check that image tokens lie as the patches of the picture do, row by row, as pictures in tiles need it.

    Raises:
        InputError: They do not; a class says that they do with ``keeps_grid = True``.
    """
    connector = find_connector(kind)
    if connector is not None and not keeps_grid(connector):
        raise InputError(
            "data.image_aspect: anyres puts the image tokens of tiles side by side, but those of model.projector "
            f"{kind} have no place in the picture; choose pad or square, or another projector"
        )
