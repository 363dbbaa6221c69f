"""Pictures to patch features: the frozen eye of the model.

In: ``pixel_values`` ``(N, C, H, W)``. Out: ``patch_features`` ``(N, P, D_v)``, the hidden states of one selected layer.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_pl.types import InputError

SelectFeature = Literal["patch", "cls_patch"]


def count_layers_to_run(num_layers: int, select_layer: int) -> int:
    """Return how many layers produce hidden state ``select_layer``, of 0 (embeddings) to ``num_layers``.

    Raises:
        InputError: There is no such hidden state.

    >>> count_layers_to_run(24, -2)
    23
    """
    if not -num_layers - 1 <= select_layer <= num_layers:
        raise InputError(
            f"vision_encoder.select_layer: expected {-num_layers - 1} to {num_layers} "
            f"for an encoder of {num_layers} layers, found {select_layer}"
        )
    return select_layer % (num_layers + 1)


def count_image_tokens(config: CLIPVisionConfig, select_feature: SelectFeature) -> int:
    """Return P, the image tokens per picture: its patches, and the class token with "cls_patch".

    Raises:
        InputError: Pictures or patches are not square.
    """
    image_size, patch_size = config.image_size, config.patch_size
    if not isinstance(image_size, int) or not isinstance(patch_size, int):
        raise InputError(f"vision_encoder: expected square pictures and patches, found {image_size} and {patch_size}")
    return (image_size // patch_size) ** 2 + (select_feature == "cls_patch")


class VisionEncoder(nn.Module):
    """A CLIP vision model that ends at the selected layer.

    The layers above it are neither kept nor run: the last hidden state of the cut model is, bit for bit, the selected
    hidden state of the whole one (CLIP applies its final norm to the pooled output only).

    Args:
        model: A CLIP vision model already cut to the layers that are to run (see `count_layers_to_run`).
        select_feature: "patch" leaves the class token out, "cls_patch" keeps it in front.
    """

    def __init__(self, model: CLIPVisionModel, select_feature: SelectFeature = "patch") -> None:
        super().__init__()
        self.model = model
        self.select_feature: SelectFeature = select_feature

    @property
    def width(self) -> int:
        """D_v, the width of a patch feature."""
        return int(self.model.config.hidden_size)

    @property
    def num_image_tokens(self) -> int:
        """P, the image tokens per picture."""
        return count_image_tokens(self.model.config, self.select_feature)

    @property
    def unused_parameters(self) -> list[nn.Parameter]:
        """Those that no patch feature depends on: CLIP's last norm, which is for its pooled output alone."""
        return list(self.model.post_layernorm.parameters())

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the patch features.

        Args:
            pixel_values: float ``(N, C, H, W)``, normalised; moved to the encoder's dtype.

        Returns:
            float ``(N, P, D_v)`` in the encoder's dtype.
        """
        hidden: Tensor = self.model(pixel_values.to(self.model.dtype)).last_hidden_state
        return hidden[:, 1:] if self.select_feature == "patch" else hidden
