"""What a model would say before it says it: the words of each layer, and the words that image tokens are nearest to.

In: a conversation that ends with an answer, or image features. Out: ids of words, with how likely or how near they are.

Both read with a map that was made for something else, the head behind the last layer and the table of words in front of
the first: where they find nothing, another map might.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llava_pl.data.clip_pixels import look_up
from llava_pl.models.adapters import plain_table
from llava_pl.models.llava import LlavaModel
from llava_pl.types import IGNORE_INDEX, InputError, Sample

if TYPE_CHECKING:
    from llava_pl.models.decoder import CausalDecoder

FINAL_NORMS = ("norm", "norm_f", "ln_f", "final_layernorm")
"""What the norm between the last layer and the head is called, by family."""


@dataclass(frozen=True, slots=True)
class LayerWords:
    """What each layer would have said in the place of each token of an answer.

    Layer 0 is what the first layer reads, the last one is what the model says.

    Args:
        targets: int64 ``(A,)``, the tokens of the answer.
        ids: int64 ``(layers + 1, A, K)``, the likeliest words, the first the likeliest.
        probabilities: float32 ``(layers + 1, A, K)``, how likely they are.
        of_targets: float32 ``(layers + 1, A)``, how likely the tokens of the answer are.
    """

    targets: Tensor
    ids: Tensor
    probabilities: Tensor
    of_targets: Tensor


@torch.no_grad()
def logit_lens(model: LlavaModel, sample: Sample, *, num_words: int = 1) -> LayerWords:
    """Return what each layer would have said: its hidden states through the last norm and the head.

    Args:
        model: In eval mode.
        sample: A conversation whose supervised tokens are the answers (`SampleEncoder.encode_turns`).
        num_words: K, words of each layer and position.

    Raises:
        InputError: Nothing is supervised, or nobody knows the decoder's last norm.
    """
    places = (sample.labels != IGNORE_INDEX).nonzero()[:, 0]
    if not len(places):
        raise InputError("logit lens: expected a conversation that ends with an answer, found no supervised token")
    decoder = cast("CausalDecoder", model.decoder)
    norm, device = _final_norm(decoder), next(model.parameters()).device
    pixels, table = sample.pixel_values, sample.value_of_level
    pixels = pixels if table is None else look_up(pixels, table)
    inputs_embeds = model.embed(sample.input_ids[None].to(device), pixels.to(device), sample.grids)
    output = decoder.model.base_model(inputs_embeds=inputs_embeds, use_cache=False, output_hidden_states=True)
    targets = sample.input_ids[places]
    of_layers = []
    for number, hidden in enumerate(output.hidden_states, start=1):
        rows = hidden[0, (places - 1).to(device)]  # each token is predicted from the position before it
        is_last = number == len(output.hidden_states)  # which transformers hands out as the norm leaves it
        likely = decoder.logits(rows if is_last else norm(rows)).float().softmax(dim=-1).cpu()
        best = likely.topk(num_words)
        of_layers.append((best.indices, best.values, likely.gather(1, targets[:, None])[:, 0]))
    ids, probabilities, of_targets = (torch.stack(each) for each in zip(*of_layers, strict=True))
    return LayerWords(targets, ids, probabilities, of_targets)


def _final_norm(decoder: CausalDecoder) -> nn.Module:
    base = decoder.model.base_model
    for name in FINAL_NORMS:
        if isinstance(norm := getattr(base, name, None), nn.Module):
            return norm
    raise InputError(
        f"logit lens: {type(base).__name__} has none of {', '.join(FINAL_NORMS)}; expected a decoder whose last norm "
        "is called so"
    )


@torch.no_grad()
def nearest_words(
    model: LlavaModel, features: Tensor, *, num_words: int = 1, among: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the word embeddings that image features are nearest to, by the cosine of the angle between them.

    Args:
        model: That the features are for.
        features: float ``(..., D)``, such as those of `LlavaModel.encode_images`.
        num_words: K, words of each feature.
        among: Ids of the words that are compared; None for all.

    Returns:
        Cosines float32 ``(..., K)``, the highest first, and ids int64 ``(..., K)``.
    """
    table = plain_table(model.decoder.embedding).weight
    words = torch.arange(len(table)) if among is None else torch.tensor(among)
    table = table[words.to(table.device)]
    cosines = F.normalize(features.float(), dim=-1) @ F.normalize(table.float(), dim=-1).T
    best = cosines.topk(num_words)
    return best.values.cpu(), words[best.indices.cpu()]
