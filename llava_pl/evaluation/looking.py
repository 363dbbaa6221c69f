"""Where a model looks when it writes a word: maps over the pictures of a conversation.

In: a conversation that ends with an answer. Out: the words of the answer, and for each a map over each picture.

Attention is what the decoder's layers weigh image tokens by, the mean over layers and heads. It is a fact about the
computation and no proof of a cause: tokens far from what is asked about may hold what is known of it, and some image
tokens are attended to by every word. The gradient says where a small change would change the word's likelihood most.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import isqrt
from typing import TYPE_CHECKING, Literal, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from llava_pl.data.clip_pixels import look_up
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.evaluation.chat import BROKEN
from llava_pl.models.anyres import merge_tiles
from llava_pl.models.llava import LlavaModel
from llava_pl.models.looking import patch_influence, read_attention
from llava_pl.models.projector import keeps_grid
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, ImageGrid, InputError, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llava_pl.models.decoder import CausalDecoder

LookMethod = Literal["attention", "gradient"]

MAX_WORDS = 200
"""Words of an answer that are told apart: of more, the first."""

MOST_HELD = 8
"""Tokens that are read at once: a letter has four bytes at most, in front of which another may end."""


class Looks:
    """An answer that was given, word by word, and where the model looks for each of them.

    Not for two threads at once, as `read_attention`.

    Args:
        model: In eval mode.
        encoder: As the model was trained with.
        turns: Questions and answers in turn, an answer last; image slots stand where pictures are shown.
        pictures: One for each slot, RGB.

    Attributes:
        words: Of the last answer, in order, without the spaces between them; of more than `MAX_WORDS` the first.
        methods: What `maps` can draw: attention only where the projector's image tokens have places in the picture.

    Raises:
        InputError: There is no answer or no picture, or the conversation cannot be encoded or is too long.
    """

    def __init__(
        self, model: LlavaModel, encoder: SampleEncoder, turns: Sequence[Turn], pictures: Sequence[Image.Image]
    ) -> None:
        if not turns or turns[-1].role != "gpt" or not pictures:
            raise InputError("where the model looks: expected a picture and an answer, found none; ask about one first")
        self._model, self._num_pictures = model, len(pictures)
        self._sample = encoder.encode_turns(turns, pictures)
        model.decoder.check_length(len(self._sample.input_ids), "begin a new conversation")
        self._answer = _find_answer(self._sample.labels)
        found = _split_words(self._sample.input_ids[self._answer].tolist(), encoder.tokenizer)
        self.words = tuple(text for text, _ in found)
        self._tokens = [tokens for _, tokens in found]
        self.methods: tuple[LookMethod, ...] = (
            ("attention", "gradient") if keeps_grid(model.projector) else ("gradient",)
        )

    def maps(self, word: int, method: LookMethod | None = None) -> tuple[Tensor, ...]:
        """Return a map over each picture, float32 ``(rows, columns)``, at least 0.

        Of attention it is the share of each place in all that the word's tokens attended to, the mean over them; the
        encoder sees of a picture what `SampleEncoder.find_seen` says.

        Args:
            word: Which of `words`.
            method: None for the first of `methods`.

        Raises:
            InputError: There is no such word, or the projector's image tokens have no places that attention could be
                drawn at.
        """
        if not 0 <= word < len(self.words):
            raise InputError(
                f"where the model looks: expected a word of the {len(self.words)} of the answer, found {word}"
            )
        grids, tokens = self._sample.grids, self._tokens[word]
        place = slice(self._answer.start + tokens.start, self._answer.start + tokens.stop)
        method = method or self.methods[0]
        if method not in self.methods:
            raise InputError(
                f"where the model looks: the image tokens of {type(self._model.projector).__name__} have no place in "
                f"the picture that {method} could be drawn at; choose gradient"
            )
        if method == "attention":
            weights = read_attention(cast("CausalDecoder", self._model.decoder), self._inputs_embeds, place)
            shares = weights.mean(dim=(0, 1)).cpu()[self._sample.input_ids == IMAGE_TOKEN_INDEX]
            return _place(shares, self._num_pictures, grids)
        influence = patch_influence(self._model, *self._inputs, place, grids).cpu()
        values = _merge(influence, self._model.num_image_tokens, grids) if grids else influence.flatten()
        return _place(values, self._num_pictures, grids)

    @cached_property
    def _inputs(self) -> tuple[Tensor, Tensor]:
        """Ids and pixel values on the model's device."""
        device = next(self._model.parameters()).device
        pixel_values, table = self._sample.pixel_values, self._sample.value_of_level
        pixel_values = pixel_values if table is None else look_up(pixel_values, table)
        return self._sample.input_ids[None].to(device), pixel_values.to(device)

    @cached_property
    def _inputs_embeds(self) -> Tensor:
        with torch.no_grad():
            return self._model.embed(*self._inputs, self._sample.grids)


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
    """Return the first words of an answer, at most `MAX_WORDS`, each with its tokens.

    A token of several words is one; spaces and end marks are none.
    """
    words: list[tuple[str, slice]] = []
    is_within, start = False, 0
    # Each piece is read behind the one before: alone, it would lose the space in front of it.
    before: list[int] = []
    piece_ids: list[int] = []
    text = ""
    for end, each in enumerate(ids, start=1):
        piece_ids.append(each)
        longer = str(tokenizer.decode(before + piece_ids, skip_special_tokens=True))
        if longer.endswith(BROKEN) and len(piece_ids) < MOST_HELD:
            continue  # of a letter whose bytes are not all there
        if piece := longer[len(text) :]:
            if piece.strip() and is_within and not piece[0].isspace():
                begun, tokens = words.pop()
                words.append((begun + piece, slice(tokens.start, end)))
            elif piece.strip():
                words.append((piece.strip(), slice(start, end)))
            is_within = not piece[-1].isspace()
            before, piece_ids = piece_ids, []
            text = str(tokenizer.decode(before, skip_special_tokens=True))
        else:
            piece_ids.pop()  # an end mark, or nothing that can be seen
        start = end
        if len(words) > MAX_WORDS:
            break
    return words[:MAX_WORDS]


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
        # Means over areas, of which each value of the whole picture is in one at least; then the sum that it had.
        whole = adaptive_avg_pool2d(each[: side**2].view(1, 1, side, side), size)[0, 0]
        whole = whole * (each[: side**2].sum() / whole.sum().clamp(min=torch.finfo(whole.dtype).tiny))
        tiles = each[side**2 :].view(grid.height, grid.width + 1)[:, :-1]  # the last of each row is the newline
        maps.append(tiles + whole)
    return tuple(maps)
