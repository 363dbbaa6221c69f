"""Patch features to image features: the small trained bridge between eye and language.

In: ``patch_features`` ``(N, P, D_v)``. Out: ``image_features`` ``(N, P, D)``.
"""

from __future__ import annotations

import re

from torch import nn

from llava_pl.types import InputError


def build_projector(kind: str, *, vision_width: int, decoder_width: int) -> nn.Module:
    """Return a freshly initialised projector; its parameter names are those of the original's `mm_projector`.

    Args:
        kind: "linear" (LLaVA), "mlp2x_gelu" (LLaVA-1.5; any depth: "mlp{N}x_gelu") or "identity".
        vision_width: D_v.
        decoder_width: D.

    Raises:
        InputError: An unknown kind, or "identity" between different widths.

    >>> [type(layer).__name__ for layer in build_projector("mlp2x_gelu", vision_width=4, decoder_width=8)]
    ['Linear', 'GELU', 'Linear']
    """
    if kind == "linear":
        return nn.Linear(vision_width, decoder_width)
    if kind == "identity":
        if vision_width != decoder_width:
            raise InputError(
                f"projector: 'identity' needs equal widths, found an encoder of {vision_width} "
                f"and a decoder of {decoder_width}; use 'linear' or 'mlp2x_gelu'"
            )
        return nn.Identity()
    if match := re.fullmatch(r"mlp([1-9]\d*)x_gelu", kind):
        layers: list[nn.Module] = [nn.Linear(vision_width, decoder_width)]
        for _ in range(1, int(match[1])):
            layers += [nn.GELU(), nn.Linear(decoder_width, decoder_width)]
        return nn.Sequential(*layers)
    raise InputError(f"projector: expected linear, mlp{{N}}x_gelu (such as mlp2x_gelu) or identity, found {kind!r}")
