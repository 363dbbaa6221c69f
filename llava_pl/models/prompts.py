"""Prompts that the decoder has read, and what can be asked of them: answers, or how likely given ones are.

In: embeddings of left-padded prompts. Out: the ids of answers, or log-likelihoods.

Answers are greedy, and equal to those of transformers' ``generate``. Three things that it does not do are why there is
a loop here: rows that have ended leave the batch, prompts may share what they begin with (`shared_prefix`), and the
prompts, once read, can be continued with several given answers each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llava_pl.models.decoder import Decoder
from llava_pl.models.roomy_cache import roomy_layers
from llava_pl.models.shared_prefix import SharedPrefix, spread
from llava_pl.types import ImageGrid

if TYPE_CHECKING:
    from transformers import Cache


PACK_LENGTH = 4096
"""Positions that are packed together: more are read no faster, and what is computed of them takes more memory."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Left-padded prompts.

    Args:
        input_ids: int64 ``(B, T)``, image slots expanded.
        attention_mask: int64 ``(B, T)``.
        pixel_values: As `LlavaModel.embed` takes them, and so the rest.
        grids: Of tiled pictures.
        pictures: For each row the place of its picture, where several rows show one; else empty.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixel_values: Tensor | None = None
    grids: Sequence[ImageGrid] = ()
    pictures: Sequence[int] = ()


@dataclass(slots=True)
class ReadPrompts:
    """Left-padded prompts that the decoder has read.

    Args:
        cache: Keys and values of all positions.
        attention_mask: int64 ``(B, T)``.
        hidden: float ``(B, D)``, the last hidden state of each prompt.
    """

    cache: Cache
    attention_mask: Tensor
    hidden: Tensor

    def select(self, rows: Sequence[int]) -> None:
        """Keep some rows, in this order; a row may be named several times."""
        index = torch.tensor(rows, device=self.hidden.device)
        self.cache.batch_select_indices(index)
        self.attention_mask, self.hidden = self.attention_mask[index], self.hidden[index]

    def extend(self, decoder: Decoder, ids: Tensor) -> Tensor:
        """Read on, and return the hidden states ``(B, Q, D)`` of ids ``(B, Q)``."""
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(ids)], dim=1)
        hidden = decoder.extend(self.cache, decoder.embed(ids), self.attention_mask)
        self.hidden = hidden[:, -1]
        return hidden


def read_prompts(
    decoder: Decoder, inputs_embeds: Tensor, attention_mask: Tensor, shared: SharedPrefix | None = None
) -> ReadPrompts:
    """Return prompts as the decoder has read them.

    Args:
        decoder: In eval mode.
        inputs_embeds: float ``(B, T, D)``.
        attention_mask: int64 ``(B, T)``, zero at the padding, on the left, which the longest row has none of.
        shared: What rows have in common, to be read once; None to read each row by itself.
    """
    if shared is None:
        return _read_rows(decoder, inputs_embeds, attention_mask)
    sources, end = list(shared.sources), shared.num_columns
    read = _read_rows(decoder, inputs_embeds[sources, :end], attention_mask[sources, :end], keeps_all=True)
    cache = decoder.new_cache(keeps_all=True)
    spread(read.cache, shared, cache, num_more=inputs_embeds.shape[1] - end)
    hidden = decoder.extend(cache, inputs_embeds[:, end:], attention_mask)
    return ReadPrompts(cache, attention_mask, hidden[:, -1])


def _read_rows(
    decoder: Decoder, inputs_embeds: Tensor, attention_mask: Tensor, *, keeps_all: bool = False
) -> ReadPrompts:
    """Return rows as the decoder has read them, if possible without their padding."""
    cache, lengths = decoder.new_cache(keeps_all=keeps_all), attention_mask.sum(dim=1).tolist()
    # Ranks that gather each layer together read equally often, whatever their lengths are.
    packs = [slice(0, len(lengths))] if decoder.is_divided else _divide(lengths)
    is_full = len(packs) == 1 and min(lengths) == attention_mask.shape[1]
    if is_full or not decoder.can_pack_prompts:
        hidden = decoder.extend(cache, inputs_embeds, attention_mask)
        return ReadPrompts(cache, attention_mask, hidden[:, -1])
    packed, last = [decoder.new_cache(keeps_all=keeps_all) for _ in packs], []
    for rows, part in zip(packs, packed, strict=True):
        row = inputs_embeds[rows][attention_mask[rows].bool()][None]
        hidden = decoder.extend(part, row, None, lengths[rows])
        last.append(hidden[0, torch.tensor(lengths[rows]).cumsum(dim=0) - 1])
    layers = [roomy_layers(part) for part in packed]
    for own in roomy_layers(cache):
        parts = [each.pop(0) for each in layers]  # so that no more than a layer is held twice
        keys, values = (_split(held, packs, lengths) for held in zip(*((p.keys, p.values) for p in parts), strict=True))
        own.take_rows(keys, values, attention_mask.shape[1])
    return ReadPrompts(cache, attention_mask, torch.cat(last))


def _divide(lengths: Sequence[int]) -> list[slice]:
    """Return the rows of each pack: as many as there is room for, or one that needs more.

    >>> _divide([2000, 2000, 2000, 5000, 1])
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    starts, num_positions = [0], 0
    for row, length in enumerate(lengths):
        num_positions += length
        if num_positions > PACK_LENGTH and row > starts[-1]:
            starts.append(row)
            num_positions = length
    return [slice(start, end) for start, end in pairwise([*starts, len(lengths)])]


def _split(packed: Sequence[Tensor], packs: Sequence[slice], lengths: list[int]) -> list[Tensor]:
    """Return the rows ``(heads, T_row, D / heads)`` that packs ``(1, heads, positions, D / heads)`` hold."""
    return [row for part, rows in zip(packed, packs, strict=True) for row in torch.split(part[0], lengths[rows], dim=1)]


@torch.no_grad()
def answer_greedily(
    decoder: Decoder,
    prompts: ReadPrompts,
    *,
    max_new_tokens: int,
    end_ids: Collection[int],
    is_ended: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Return the ids of the most likely next words, again and again until each answer ends.

    Args:
        decoder: That has read the prompts.
        prompts: They are used up.
        max_new_tokens: Where answers end at the latest.
        end_ids: Ids that end an answer, as its last one.
        is_ended: Whether an answer ends here for another reason than that.

    Raises:
        InputError: The longest answer to the longest prompt would be longer than the model takes.
    """
    # Before the first word: evaluation asks the longest questions of a set first.
    num_columns = prompts.attention_mask.shape[1]
    advice = f"prompts have up to {num_columns} of them: lower model.generation.max_new_tokens from {max_new_tokens}"
    decoder.check_length(num_columns + max_new_tokens - 1, advice)
    answers: list[list[int]] = [[] for _ in range(len(prompts.hidden))]
    rows = list(range(len(answers)))  # the answer that each row of the prompts belongs to
    goes_on = list(rows)  # the rows whose answers have not ended; none on a rank that waits for others
    for num_new in range(1, max_new_tokens + 1):
        ids = decoder.logits(prompts.hidden).argmax(dim=-1)
        words = ids.tolist()
        for row in goes_on:
            answers[rows[row]].append(words[row])
        goes_on = [
            row for row in goes_on if words[row] not in end_ids and not (is_ended and is_ended(answers[rows[row]]))
        ]
        if num_new == max_new_tokens or not _anyone(len(goes_on), decoder, ids.device):
            break
        # To leave rows out copies those that stay. Of half of them each time, all copies together are no more than the
        # batch was, and no more than twice the rows that go on are asked for a word.
        if rows and len(goes_on) <= len(rows) / 2:
            prompts.select(goes_on or [0])
            ids = ids[goes_on or [0]]
            rows = [rows[row] for row in goes_on]
            goes_on = list(range(len(rows)))
        prompts.extend(decoder, ids[:, None])
    return answers


def _anyone(num_rows: int, decoder: Decoder, device: torch.device) -> bool:
    """Return whether an answer goes on: on any rank, where ranks gather each layer together."""
    if not decoder.is_divided or not torch.distributed.is_initialized():
        return num_rows > 0
    num_all = torch.tensor(num_rows, device=device)
    torch.distributed.all_reduce(num_all)
    return int(num_all) > 0


@torch.no_grad()
def score_answers(
    decoder: Decoder, prompts: ReadPrompts, answers: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """Return the log-likelihood of given answers, each summed over its tokens.

    Args:
        decoder: That has read the prompts.
        prompts: They are used up.
        answers: For each prompt, the ids of its answers; none of them empty.
    """
    rows = [row for row, choices in enumerate(answers) for _ in choices]
    flat = [list(ids) for choices in answers for ids in choices]
    likelihood = _log_likelihoods(decoder, prompts.hidden)[rows, [ids[0] for ids in flat]]
    longest = max(map(len, flat))
    if longest > 1 or decoder.is_divided:  # ranks run it equally often, whatever their questions are
        prompts.select(rows)
        # Padding on the right comes after all that counts.
        padded = torch.tensor([ids + [ids[-1]] * (longest - len(ids)) for ids in flat], device=likelihood.device)
        hidden = prompts.extend(decoder, padded[:, : max(longest - 1, 1)])
        later = _log_likelihoods(decoder, hidden[:, : longest - 1]).gather(-1, padded[:, 1:, None])[..., 0]
        lengths = torch.tensor([len(ids) for ids in flat], device=likelihood.device)
        is_own = torch.arange(1, longest, device=likelihood.device) < lengths[:, None]
        likelihood = likelihood + (later * is_own).sum(dim=-1)
    scores = iter(likelihood.tolist())
    return [[next(scores) for _ in choices] for choices in answers]


def _log_likelihoods(decoder: Decoder, hidden: Tensor) -> Tensor:
    """Return the logarithm of the likelihood of each word of the vocabulary, in float32."""
    return torch.log_softmax(decoder.logits(hidden).float(), dim=-1)
