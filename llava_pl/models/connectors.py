"""Projectors that change how many image tokens a picture has; `CONNECTORS` in ``projector.py`` names them.

In: ``patch_features`` ``(N, patches, D_v)``. Out: ``image_features`` ``(N, P, D)``.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, IdeficsConfig
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from llava_pl.types import InputError


class QFormer(nn.Module):
    """BLIP-2's bridge: learned queries read the patch features in every other layer of a small BERT.

    Of transformers, freshly initialised; [Li et al. 2023](https://arxiv.org/abs/2301.12597), section 3.1.

    Args:
        vision_width: D_v.
        decoder_width: D.
        num_queries: P.
        width: Width of the queries; a multiple of `num_heads`.
        depth: Layers.
        num_heads: Attention heads of a layer.
        dropout: Share of activations that is dropped in training.
    """

    def __init__(
        self,
        vision_width: int,
        decoder_width: int,
        *,
        num_queries: int = 32,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_positive(num_queries=num_queries, width=width, depth=depth, num_heads=num_heads)
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise InputError(f"model.projector_options: dropout: expected a share in [0, 1), found {dropout!r}")
        if width % num_heads:
            raise InputError(f"model.projector_options: width {width} is no multiple of num_heads {num_heads}")
        config = Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            encoder_hidden_size=vision_width,
        )
        # As BLIP-2 draws them. Equal queries would stay equal.
        self.queries = nn.Parameter(torch.empty(num_queries, width).normal_(std=config.initializer_range))
        self.qformer = Blip2QFormerModel(config)
        self.output = nn.Linear(width, decoder_width)

    def count_image_tokens(self, num_patches: int) -> int:
        """Return P, whatever the number of patch features."""
        del num_patches
        return len(self.queries)

    def forward(self, patch_features: Tensor) -> Tensor:
        """Return image features ``(N, P, D)`` of patch features ``(N, patches, D_v)``."""
        queries = self.queries.expand(len(patch_features), -1, -1)
        hidden = self.qformer(query_embeds=queries, encoder_hidden_states=patch_features).last_hidden_state
        image_features: Tensor = self.output(hidden)
        return image_features


class Resampler(nn.Module):
    """Flamingo's perceiver: learned latents read the patch features and each other, in the encoder's width.

    IDEFICS' module of transformers, and not IDEFICS-2's: that one starts with equal latents, which stay equal unless
    trained weights are loaded, and its mask makes the device wait. [Alayrac et al. 2022]
    (https://arxiv.org/abs/2204.14198), section 2.1.

    Args:
        vision_width: D_v.
        decoder_width: D.
        num_queries: P.
        depth: Layers.
        num_heads: Attention heads of a layer.
        head_dim: Width of a head.
    """

    def __init__(
        self,
        vision_width: int,
        decoder_width: int,
        *,
        num_queries: int = 64,
        depth: int = 6,
        num_heads: int = 16,
        head_dim: int = 96,
    ) -> None:
        super().__init__()
        _check_positive(num_queries=num_queries, depth=depth, num_heads=num_heads, head_dim=head_dim)
        # Only the width of its MLP is read off the configuration.
        config = IdeficsConfig(vision_config={"embed_dim": vision_width})
        self.perceiver = IdeficsPerceiverResampler(config, vision_width, depth, num_heads, head_dim, num_queries)
        self.output = nn.Linear(vision_width, decoder_width)

    def count_image_tokens(self, num_patches: int) -> int:
        """Return P, whatever the number of patch features."""
        del num_patches
        return int(self.perceiver.n_latents)

    def forward(self, patch_features: Tensor) -> Tensor:
        """Return image features ``(N, P, D)`` of patch features ``(N, patches, D_v)``."""
        image_features: Tensor = self.output(self.perceiver(patch_features))
        return image_features


class PixelShuffle(nn.Module):
    """Squares of neighbouring patches side by side in one feature, and a two-layer MLP: fewer tokens, nothing lost.

    As InternVL ([Chen et al. 2024](https://arxiv.org/abs/2404.16821), section 3.2), without its first norm.

    Args:
        vision_width: D_v.
        decoder_width: D.
        num_patches: Patch features per picture; a square map of them.
        factor: Patches along a side of each square.
    """

    keeps_grid = True

    def __init__(self, vision_width: int, decoder_width: int, num_patches: int, *, factor: int = 2) -> None:
        super().__init__()
        _check_positive(factor=factor)
        side = isqrt(num_patches)
        if side**2 != num_patches or side % factor:
            raise InputError(
                f"model.projector: pixel_shuffle: expected a square map of patch features whose side is a multiple of "
                f"factor {factor}, found {num_patches} features; choose another factor (model.projector_options), and "
                "select_feature patch"
            )
        self.factor = factor
        self.mlp = nn.Sequential(
            nn.Linear(vision_width * factor**2, decoder_width), nn.GELU(), nn.Linear(decoder_width, decoder_width)
        )

    def count_image_tokens(self, num_patches: int) -> int:
        """Return P, the number of squares."""
        return num_patches // self.factor**2

    def forward(self, patch_features: Tensor) -> Tensor:
        """Return image features ``(N, P, D)``, row by row, of patch features ``(N, patches, D_v)``."""
        num_pictures, num_patches, width = patch_features.shape
        side = isqrt(num_patches) // self.factor
        # (N, square row, row in it, square column, column in it, D_v): what is in a square goes last.
        squares = patch_features.reshape(num_pictures, side, self.factor, side, self.factor, width).transpose(2, 3)
        image_features: Tensor = self.mlp(squares.reshape(num_pictures, side**2, -1))
        return image_features


def _check_positive(**options: object) -> None:
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"model.projector_options: {name}: expected a whole number of at least 1, found {value!r}")
