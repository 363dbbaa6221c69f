"""Where a model looks when it writes a word: maps over the pictures of a conversation.

In: a conversation that ends with an answer. Out: the words of the answer, and for each a map over each picture.

Attention is what the decoder's layers weigh image tokens by, the mean over layers and heads. It is a fact about the
computation and no proof of a cause: tokens far from what is asked about may hold what is known of it, and some image
tokens are attended to by every word. The gradient says where a small change would change the word's likelihood most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Literal, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from llava_pl.data.clip_pixels import look_up
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation.chat import BROKEN
from llava_pl.models.anyres import merge_tiles
from llava_pl.models.llava import LlavaModel
from llava_pl.models.looking import patch_influence, read_attention
from llava_pl.models.projector import keeps_grid
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, ImageGrid, InputError, Sample, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llava_pl.models.decoder import CausalDecoder

LookMethod = Literal["attention", "gradient"]


@dataclass(frozen=True, slots=True)
class LookedWord:
    """A word of an answer, and where the model looked for it.

    Args:
        text: The word, without the space in front.
        maps: float32 ``(rows, columns)`` for each picture, at least 0; of attention, its share in all of the word's.
    """

    text: str
    maps: tuple[Tensor, ...]


def find_looks(
    model: LlavaModel,
    encoder: SampleEncoder,
    turns: Sequence[Turn],
    pictures: Sequence[Image.Image],
    method: LookMethod | None = None,
) -> list[LookedWord]:
    """Return the words of the last answer with where the model looked for each.

    Not for two threads at once, as `read_attention`.

    Args:
        model: In eval mode.
        encoder: As the model was trained with.
        turns: Questions and answers in turn, an answer last; image slots stand where pictures are shown.
        pictures: One for each slot, RGB.
        method: None for attention, where the image tokens of the projector have places in the picture, else gradient.

    Raises:
        InputError: There is no answer or no picture, the conversation cannot be encoded, or attention is asked for and
            image tokens have no places.
    """
    if not turns or turns[-1].role != "gpt" or not pictures:
        raise InputError("where the model looks: expected a picture and an answer, found none; ask about one first")
    if method is None:
        method = "attention" if keeps_grid(model.projector) else "gradient"
    if method == "attention" and not keeps_grid(model.projector):
        raise InputError(
            f"where the model looks: the image tokens of {type(model.projector).__name__} have no place in the "
            "picture, which attention would be drawn at; choose gradient"
        )
    sample = encoder.encode_turns(turns, pictures)
    device = next(model.parameters()).device
    input_ids, pixel_values = sample.input_ids[None].to(device), _find_pixels(sample).to(device)
    answer = _find_answer(sample.labels)
    words = _split_words(sample.input_ids[answer].tolist(), encoder.tokenizer)
    if method == "attention":
        inputs_embeds = model.embed(input_ids, pixel_values, sample.grids)
        shares = read_attention(cast("CausalDecoder", model.decoder), inputs_embeds, answer.start).mean(dim=0).cpu()
        shares = shares[:, sample.input_ids == IMAGE_TOKEN_INDEX]
        return [LookedWord(text, _place(shares[own].mean(dim=0), len(pictures), sample.grids)) for text, own in words]
    looked = []
    for text, own in words:
        tokens = slice(answer.start + own.start, answer.start + own.stop)
        influence = patch_influence(model, input_ids, pixel_values, tokens, sample.grids).cpu()
        if sample.grids:
            influence = _merge(influence, model.num_image_tokens, sample.grids)
        looked.append(LookedWord(text, _place(influence.flatten(), len(pictures), sample.grids)))
    return looked


def _find_pixels(sample: Sample) -> Tensor:
    table = sample.value_of_level
    return sample.pixel_values if table is None else look_up(sample.pixel_values, table)


def _find_answer(labels: Tensor) -> slice:
    """Return the last stretch of supervised tokens."""
    supervised = (labels != IGNORE_INDEX).nonzero()[:, 0].tolist()
    start = stop = supervised[-1] + 1
    for position in reversed(supervised):
        if position != start - 1:
            break
        start = position
    return slice(start, stop)


def _split_words(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, slice]]:
    """Return the words of an answer, each with its tokens.

    A token of several words is one; spaces and end marks are none.
    """
    words: list[tuple[str, slice]] = []
    text, start = "", 0
    for end in range(1, len(ids) + 1):
        longer = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
        if longer.endswith(BROKEN):
            continue  # of a letter whose bytes are not all there
        piece = longer[len(text) :]
        if words and piece.strip() and not piece[0].isspace() and not text[-1].isspace():
            begun, tokens = words.pop()
            words.append((begun + piece, slice(tokens.start, end)))
        elif piece.strip():
            words.append((piece.strip(), slice(start, end)))
        text, start = longer, end
    return words


def _merge(influence: Tensor, num_image_tokens: int, grids: Sequence[ImageGrid]) -> Tensor:
    """Return the influence of tiles ``(N, patches)`` in the order of their image tokens, ``(M,)``, 0 at newlines."""
    of, to = isqrt(influence.shape[1]), isqrt(num_image_tokens)
    pooled = adaptive_avg_pool2d(influence.view(-1, 1, of, of), to).reshape(-1, to**2, 1)
    return merge_tiles(pooled, grids, torch.zeros(1))[:, 0]


def _place(values: Tensor, num_pictures: int, grids: Sequence[ImageGrid]) -> tuple[Tensor, ...]:
    """Return a map for each picture of the values of their tokens or patches ``(M,)``."""
    if not grids:
        side = isqrt(len(values) // num_pictures)
        # A class token stands in front of the others, and nowhere in the picture.
        return tuple(each[-(side**2) :].view(side, side) for each in values.chunk(num_pictures))
    num_of_tiles = [grid.height * (grid.width + 1) for grid in grids]
    num_of_whole = (len(values) - sum(num_of_tiles)) // num_pictures
    maps = []
    for grid, each in zip(grids, torch.split(values, [num_of_whole + number for number in num_of_tiles]), strict=True):
        side = isqrt(num_of_whole)
        size = (grid.height, grid.width)
        whole = interpolate(each[: side**2].view(1, 1, side, side), size, mode="bilinear")[0, 0]
        tiles = each[side**2 :].view(grid.height, grid.width + 1)[:, :-1]  # the last of each row is the newline
        maps.append(tiles + whole * (side**2 / whole.numel()))
    return tuple(maps)
