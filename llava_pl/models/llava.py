"""The whole model: vision encoder, projector, splice, decoder, loss, in the order in which data flows through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from llava_pl.models.anyres import merge_tiles
from llava_pl.models.decoder import Decoder
from llava_pl.models.division import is_divided
from llava_pl.models.loss import MAX_LOGITS, supervised_loss
from llava_pl.models.projector import count_image_tokens
from llava_pl.models.prompts import Prompts, ReadPrompts, answer_greedily, read_prompts, score_answers
from llava_pl.models.shared_prefix import find_shared_prefix
from llava_pl.models.splice import splice
from llava_pl.models.vision_encoder import VisionEncoder
from llava_pl.types import IMAGE_TOKEN_INDEX, ImageGrid, InputError, LossOutput

INPUTS = frozenset({
    "input_ids", "pixel_values", "patch_features", "grids", "attention_mask", "position_ids", "sequence_lengths",
    "labels", "num_supervised",
})  # fmt: skip
"""What `LlavaModel.forward` takes of a batch."""


@dataclass(frozen=True)  # without slots: DeepSpeed asks for the `vars` of what a module returns
class LlavaOutput:
    """What a forward pass returns.

    Args:
        logits: float ``(B, T, V)`` when no labels were given, else None.
        loss_output: Sum and number of supervised tokens when labels were given, else None.
    """

    logits: Tensor | None = None
    loss_output: LossOutput | None = None

    @property
    def loss(self) -> Tensor | None:
        """Mean loss over the batch's supervised tokens (zero without any), None when no labels were given."""
        return None if self.loss_output is None else self.loss_output.mean


class LlavaModel(nn.Module):
    """A language model that sees.

    Args:
        vision_encoder: Pictures to patch features.
        projector: Patch features to image features.
        decoder: Embeddings to hidden states and logits; a module such as `CausalDecoder`.
        image_newline: Embedding ``(D,)`` that ends each row of a tiled picture; None in a model without tiles.
        new_token_ids: Ids whose word embeddings were made for this model, and came with no decoder.

    Attributes:
        encodes_blanks: Encode a blank picture for a batch without any. DeepSpeed asks for it: under ZeRO-3 a rank's
            weights are gathered when they are used, by all ranks; under ZeRO-2 gradients are summed up in the order in
            which they become known, which must be the same on all ranks.
    """

    image_newline: nn.Parameter | None

    def __init__(
        self,
        vision_encoder: VisionEncoder,
        projector: nn.Module,
        decoder: Decoder,
        image_newline: nn.Parameter | None = None,
        new_token_ids: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.projector = projector
        self.decoder = decoder
        self.register_parameter("image_newline", image_newline)
        self.new_token_ids = tuple(new_token_ids)
        self.encodes_blanks = False

    @property
    def num_image_tokens(self) -> int:
        """P, the image tokens per picture, or per tile."""
        return count_image_tokens(self.projector, self.vision_encoder.num_patches)

    def encode_images(self, pixel_values: Tensor, grids: Sequence[ImageGrid] = ()) -> Tensor:
        """Return the image features ``(N, P, D)`` of pictures ``(N, C, H, W)``; with grids, ``(M, D)`` of their tiles.

        Raises:
            InputError: The pictures are tiled, and the model has no newline embedding; or the projector gives other
                image tokens than it counts, or of another width.
        """
        return self.project(self.vision_encoder(pixel_values), grids)

    def project(self, patch_features: Tensor, grids: Sequence[ImageGrid] = ()) -> Tensor:
        """Return the image features of patch features ``(N, patches, D_v)``, as `encode_images`."""
        weight = next(self.projector.parameters(), patch_features)
        features: Tensor = self.projector(patch_features.to(weight.dtype))
        if features.shape[1] != self.num_image_tokens:
            raise InputError(
                f"model.projector: {type(self.projector).__name__} counts {self.num_image_tokens} image tokens of a "
                f"picture, but gives {features.shape[1]}; correct its count_image_tokens"
            )
        if features.shape[2] != self.decoder.width:
            raise InputError(
                f"model.projector: {type(self.projector).__name__} gives image tokens of width {features.shape[2]}; "
                f"expected the decoder's, {self.decoder.width}"
            )
        if not grids:
            return features
        if self.image_newline is None:
            raise InputError("the pictures are tiled, but the model has no image_newline; build it with has_newline")
        return merge_tiles(features, grids, self.image_newline)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None,
        grids: Sequence[ImageGrid] = (),
        pictures: Sequence[int] = (),
        patch_features: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings ``(B, T, D)`` of words and pictures; the encoder does not run for features at hand.

        A batch without pictures runs neither encoder nor projector, unless the model encodes blanks; nothing of them is
        used.

        Args:
            input_ids: As in `forward`.
            pixel_values: As in `forward`; where `pictures` are given, each picture once.
            grids: As in `forward`.
            pictures: For each row the place of its only picture, -1 without one; empty when each row has its own.
            patch_features: As in `forward`.
        """
        is_image = input_ids == IMAGE_TOKEN_INDEX
        inputs_embeds = self.decoder.embed(input_ids.masked_fill(is_image, 0))
        has_pictures = True
        if patch_features is not None and len(patch_features):
            image_features = self.project(patch_features, grids)
        elif pixel_values is not None and len(pixel_values):
            image_features = self.encode_images(pixel_values, grids)
            if pictures:
                image_features = self._repeat(image_features, grids, [place for place in pictures if place >= 0])
        elif self.encodes_blanks:
            pixel_values, grids = self._blank_picture(inputs_embeds)
            image_features = self.encode_images(pixel_values, grids)[:0]
        else:
            has_pictures = False
            image_features = inputs_embeds.new_empty(0, self.num_image_tokens, inputs_embeds.shape[-1])
        inputs_embeds = splice(inputs_embeds, image_features, is_image)
        # A zero gradient, not None: Adam's momentum goes on moving the projector as in the original, and DDP does not
        # wait forever for a rank without pictures.
        idle = self._idle_parameters(has_pictures=has_pictures, has_tiles=bool(grids))
        if idle and self.training:
            inputs_embeds = inputs_embeds + 0.0 * sum(p.sum() for p in idle)
        return inputs_embeds

    def _repeat(self, features: Tensor, grids: Sequence[ImageGrid], places: Sequence[int]) -> Tensor:
        """Return the image features of pictures that rows show, each as often as they do."""
        if not grids:
            return features[list(places)]
        of_picture = torch.split(features, [grid.num_tokens(self.num_image_tokens) for grid in grids])
        return torch.cat([of_picture[place] for place in places])

    def _blank_picture(self, like: Tensor) -> tuple[Tensor, tuple[ImageGrid, ...]]:
        """Return a picture that reaches every weight which pictures reach, on the device of a tensor."""
        config = self.vision_encoder.model.config
        grids = () if self.image_newline is None else (ImageGrid(rows=1, columns=1, height=1, width=1),)
        num_tiles = sum(grid.num_tiles for grid in grids) or 1
        side = cast("int", config.image_size)
        return like.new_zeros(num_tiles, config.num_channels, side, side), grids

    def _idle_parameters(self, *, has_pictures: bool, has_tiles: bool) -> list[nn.Parameter]:
        """Return the trained parameters that a batch does not reach, for want of pictures or of tiles."""
        idle: list[nn.Parameter] = []
        if not has_pictures:
            idle += [*self.vision_encoder.parameters(), *self.projector.parameters()]
        if self.image_newline is not None and not has_tiles:
            idle.append(self.image_newline)
        return [parameter for parameter in idle if parameter.requires_grad]

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        sequence_lengths: Sequence[int] | None = None,
        grids: Sequence[ImageGrid] = (),
        patch_features: Tensor | None = None,
        num_supervised: int | None = None,
    ) -> LlavaOutput:
        """Return the loss when labels are given, the logits of all positions when they are not.

        Args:
            input_ids: int64 ``(B, T)``, image slots already expanded to P times IMAGE_TOKEN_INDEX, those of tiled
                pictures to as many as their grids ask for.
            pixel_values: float ``(N, C, H, W)``, the pictures of all rows in order; None or N = 0 without any.
            attention_mask: int64 or bool ``(B, T)``, zero at padding, on either side; None when there is none.
            position_ids: int64 ``(B, T)``; counted over the attended positions when None.
            labels: int64 ``(B, T)``, IGNORE_INDEX where nothing is supervised.
            sequence_lengths: Positions of each sequence of a packed row, whose `position_ids` restart; None when rows
                are not packed.
            grids: One for each picture where pictures are tiled; `pixel_values` then holds their tiles.
            patch_features: float ``(N, patches, D_v)``, what the vision encoder makes of the pictures, in the place of
                `pixel_values`; None to encode these.
            num_supervised: How many tokens the labels supervise, if that is known: a device then need not be asked.

        Raises:
            ValueError: Image tokens and pictures do not match.
        """
        inputs_embeds = self.embed(input_ids, pixel_values, grids, patch_features=patch_features)
        if position_ids is None and attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        hidden = self.decoder.hidden_states(inputs_embeds, attention_mask, position_ids, sequence_lengths)
        if labels is None:
            return LlavaOutput(logits=self.decoder.logits(hidden))
        # A head in pieces is gathered by all ranks together, and they have unequally many rows: it takes all at once.
        max_rows = None if is_divided(cast("nn.Module", self.decoder)) else MAX_LOGITS // self.decoder.num_embeddings
        loss = supervised_loss(hidden, labels, self.decoder.logits, num_supervised=num_supervised, max_rows=max_rows)
        return LlavaOutput(loss_output=loss)

    @torch.no_grad()  # not inference_mode: weights that are gathered within stay unusable for training
    def generate(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        grids: Sequence[ImageGrid] = (),
        **options: Any,  # noqa: ANN401
    ) -> Tensor:
        """Return the ids that follow the prompts, int64 ``(B, T_new)``, without the prompts.

        Args:
            input_ids: int64 ``(B, T)``, padded on the left, image slots expanded.
            pixel_values: As in `forward`.
            attention_mask: int64 ``(B, T)``; all ones when None.
            grids: As in `forward`.
            **options: As for transformers' ``generate``; ``max_new_tokens=20`` and ``do_sample=False`` for 20 greedy
                tokens.
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.decoder.generate(self.embed(input_ids, pixel_values, grids), attention_mask, **options)

    def answer(self, prompts: Prompts, **options: Any) -> list[list[int]]:  # noqa: ANN401
        """Return the ids of greedy answers to left-padded prompts, each up to its end.

        Args:
            prompts: What to answer; what rows about one picture begin with is read once.
            **options: As for `answer_greedily`.
        """
        return answer_greedily(self.decoder, self._read(prompts), **options)

    def score(self, prompts: Prompts, answers: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
        """Return the log-likelihood of given answers to left-padded prompts, as `score_answers`."""
        return score_answers(self.decoder, self._read(prompts), answers)

    @torch.no_grad()
    def _read(self, prompts: Prompts) -> ReadPrompts:
        """Return prompts as the decoder has read them."""
        input_ids, attention_mask, pictures = prompts.input_ids, prompts.attention_mask, prompts.pictures
        shared = None
        if pictures and self.decoder.can_share:
            lengths = attention_mask.sum(dim=1).tolist()
            rows = [ids[len(ids) - length :] for ids, length in zip(input_ids.tolist(), lengths, strict=True)]
            shared = find_shared_prefix(rows, pictures)
        inputs_embeds = self.embed(input_ids, prompts.pixel_values, prompts.grids, pictures)
        return read_prompts(self.decoder, inputs_embeds, attention_mask, shared)
