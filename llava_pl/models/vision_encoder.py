"""Pictures to patch features: the frozen eye of the model.

In: ``pixel_values`` ``(N, C, H, W)``. Out: ``patch_features`` ``(N, patches, D_v)``, the hidden states of one selected
layer.
"""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from llava_pl.types import InputError

VisionConfig = CLIPVisionConfig | SiglipVisionConfig
VisionModel = CLIPVisionModel | SiglipVisionModel
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


def count_patches(config: VisionConfig, select_feature: SelectFeature) -> int:
    """Return the patch features per picture: its patches, and the class token with "cls_patch".

    Raises:
        InputError: Pictures or patches are not square, or there is no class token.
    """
    image_size, patch_size = config.image_size, config.patch_size
    if not isinstance(image_size, int) or not isinstance(patch_size, int):
        raise InputError(f"vision_encoder: expected square pictures and patches, found {image_size} and {patch_size}")
    if select_feature == "cls_patch" and isinstance(config, SiglipVisionConfig):
        raise InputError(
            "vision_encoder.select_feature: expected patch for a SigLIP encoder, which has no class token; "
            "found 'cls_patch'"
        )
    return (image_size // patch_size) ** 2 + (select_feature == "cls_patch")


class VisionEncoder(nn.Module):
    """A CLIP or SigLIP vision model that ends at the selected layer.

    The layers above it are neither kept nor run: what comes out of the cut model is, bit for bit, the selected hidden
    state of the whole one, without the norm that follows its last layer.

    Args:
        model: A vision model already cut to the layers that are to run (see `count_layers_to_run`).
        select_feature: "patch" leaves the class token out, "cls_patch" keeps it in front. SigLIP has none.
    """

    def __init__(self, model: VisionModel, select_feature: SelectFeature = "patch") -> None:
        super().__init__()
        self.model = model
        self.select_feature: SelectFeature = select_feature
        count_patches(model.config, select_feature)  # refuses what cannot be counted

    @property
    def num_patches(self) -> int:
        """Patch features per picture."""
        return count_patches(self.model.config, self.select_feature)

    @property
    def width(self) -> int:
        """D_v, the width of a patch feature."""
        return int(self.model.config.hidden_size)

    @property
    def unused_parameters(self) -> list[nn.Parameter]:
        """Those that no patch feature depends on: the last norm, and what makes one feature of a whole picture."""
        unused = [*self.model.post_layernorm.parameters()]
        if isinstance(self.model, SiglipVisionModel) and self.model.use_head:
            unused += self.model.head.parameters()
        return unused

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the patch features.

        Args:
            pixel_values: float ``(N, C, H, W)``, normalised; moved to the encoder's dtype.

        Returns:
            float ``(N, patches, D_v)`` in the encoder's dtype.

        Raises:
            InputError: These are no values, but the levels that a loader hands on.
        """
        if not pixel_values.is_floating_point():
            raise InputError(
                f"vision_encoder: expected float pixel_values, found {pixel_values.dtype} levels; give the batch to "
                "llava_pl.data.clip_pixels.look_up_pixels first"
            )
        # The model's own forward goes on to the last norm, which belongs to no hidden state.
        hidden = self.model.embeddings(pixel_values.to(self.model.dtype))
        if isinstance(self.model, CLIPVisionModel):
            hidden = self.model.pre_layrnorm(hidden)
        hidden = cast("Tensor", self.model.encoder(inputs_embeds=hidden).last_hidden_state)
        if isinstance(self.model, SiglipVisionModel):
            return hidden
        # In one piece, as stored features are: of a slice the projector's sums are taken in another order.
        return hidden[:, 1:].contiguous() if self.select_feature == "patch" else hidden
