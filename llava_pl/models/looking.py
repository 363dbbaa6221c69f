"""Where the model looks: what each answered token owes to each image token.

In: embeddings, or ids and pictures, of a whole conversation, and which of its positions are an answer. Out: attention,
or how fast the answer's likelihood changes with each patch. Nothing here learns, and the model stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.llava import LlavaModel
from llava_pl.types import ImageGrid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def read_attention(decoder: CausalDecoder, inputs_embeds: Tensor, answer: slice) -> Tensor:
    """Return how some tokens attended, float32 ``(layers, tokens, T)``, the mean over heads.

    Row q is what the model attended to when it predicted the token at ``answer.start + q``, so from the position before
    it; each row sums to 1. Positions in front are read with the decoder's own attention, and only those from the one
    before the tokens on with the eager kind, which alone gives weights: a table of ``T x T`` for each head is never
    made, and of the tables of all layers and heads, ``tokens x T``, those of a word are small.

    Not for two threads at once: the decoder's attention is another one for as long as this takes.

    Args:
        decoder: In eval mode.
        inputs_embeds: float ``(1, T, D)``.
        answer: The tokens, from position 2 on.
    """
    start, stop = answer.start - 1, answer.stop - 1  # of the positions that predict them; nothing behind is read
    length = inputs_embeds.shape[1]
    mask = inputs_embeds.new_ones(1, stop, dtype=torch.int64)
    cache = decoder.new_cache(keeps_all=True)
    decoder.extend(cache, inputs_embeds[:, :start], mask[:, :start])
    with _eager(decoder.model):
        output = decoder.model.base_model(
            inputs_embeds=inputs_embeds[:, start:stop],
            attention_mask=mask,
            position_ids=torch.arange(start, stop, device=inputs_embeds.device)[None],
            past_key_values=cache,
            use_cache=True,
            output_attentions=True,
        )
    rows = torch.stack([layer[0].float().mean(dim=0) for layer in output.attentions])
    return nn.functional.pad(rows, (0, length - stop))


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(attention)


def patch_influence(
    model: LlavaModel,
    input_ids: Tensor,
    pixel_values: Tensor,
    answer: slice,
    grids: Sequence[ImageGrid] = (),
) -> Tensor:
    """Return how fast the log-likelihood of some tokens changes with each patch feature, float32 ``(N, patches)``.

    The norm of the gradient, whatever stands between encoder and decoder: it tells for connectors, too, whose image
    tokens have no place in the picture. No weight gets a gradient.

    The activations of all positions in front of the last token are held: of a decoder of 7B in bfloat16 4 to 6 MB each.

    Args:
        model: In eval mode.
        input_ids: int64 ``(1, T)``, image slots expanded.
        pixel_values: float ``(N, C, H, W)``.
        answer: The tokens, from position 1 on.
        grids: As for `LlavaModel.forward`.
    """
    with torch.no_grad():
        patch_features = model.vision_encoder(pixel_values)
    patch_features.requires_grad_()
    with torch.enable_grad():
        inputs_embeds = model.embed(input_ids, None, grids, patch_features=patch_features)[:, : answer.stop - 1]
        hidden = model.decoder.hidden_states(inputs_embeds, None, None)[0, answer.start - 1 :]
        likelihood = model.decoder.logits(hidden).float().log_softmax(dim=-1)
        chosen = likelihood.gather(1, input_ids[0, answer, None]).sum()
        # Of the features alone: gradients of seven billion weights would be computed otherwise.
        (gradient,) = torch.autograd.grad(chosen, patch_features)
    return cast("Tensor", gradient.float().norm(dim=-1))
