"""Segments to token ids and labels, grown in one pass so that they cannot disagree.

In: the segments of a conversation. Out: ``input_ids`` and ``labels`` of equal length, where each image slot has already
become the image tokens that its picture will fill: every length is known before a batch reaches a device.

Two steps: `tokenize_conversation` depends on the text alone, `fill_slots` on the sizes of pictures and on the longest
sample that is wanted.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava_pl.data.conversation import render_conversation
from llava_pl.data.records import parse_turns
from llava_pl.data.templates import TemplateName
from llava_pl.types import (
    IGNORE_INDEX,
    IMAGE_END,
    IMAGE_START,
    IMAGE_TOKEN_INDEX,
    InputError,
    RecordError,
    Segment,
    Turn,
)


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """A conversation as the model reads it.

    Args:
        input_ids: int64 ``(T,)``; IMAGE_TOKEN_INDEX where an image token stands.
        labels: int64 ``(T,)``; the id where the token is supervised, IGNORE_INDEX elsewhere.
        num_cut: Tokens that were cut off the end.
    """

    input_ids: Tensor
    labels: Tensor
    num_cut: int = 0


def encode_conversation(
    conversations: Sequence[Turn | Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: TemplateName,
    num_image_tokens: int | Sequence[int],
    max_length: int | None = None,
    image_start_end: bool = False,
    is_prompt: bool = False,
    on_too_long: Literal["truncate_text", "error"] = "truncate_text",
) -> EncodedConversation:
    """Return ids and labels of a conversation; each answer and its end mark are supervised.

    Nothing else is, except where a question spells out the template's own marks around an answer: that answer is
    supervised too, as in the original (see `conversation`).

    Unlike LLaVA, which measures re-tokenized pieces and masks a whole record when their lengths do not add up, the
    supervised tokens are those that lie in the answers' characters.

    Args:
        conversations: Turns, or entries ``{"from", "value"}`` of a LLaVA JSON file.
        tokenizer: A fast tokenizer.
        template: Name of a template.
        num_image_tokens: P, the image tokens per picture, or the image tokens of each picture; 0 or empty when the
            record has no picture, so that ``<image>`` is literal text.
        max_length: The most positions of a conversation.
        image_start_end: Put ``<im_start>`` and ``<im_end>`` around each slot.
        is_prompt: The last turn is a question to be answered: ids end where the answer begins.
        on_too_long: A conversation of more than ``max_length`` positions is cut on the right, or refused. One whose
            image would be cut is always refused.

    Raises:
        RecordError: A turn is malformed, turns do not alternate, an answer is empty, or the conversation is too long.
        InputError: The tokenizer does not know the marks of ``image_start_end``, or has no template.
    """
    encoded = tokenize_conversation(
        conversations,
        tokenizer,
        template=template,
        has_images=bool(num_image_tokens),
        image_start_end=image_start_end,
        is_prompt=is_prompt,
    )
    return fill_slots(encoded, num_image_tokens, max_length=max_length, on_too_long=on_too_long)


def tokenize_conversation(
    conversations: Sequence[Turn | Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: TemplateName,
    has_images: bool,
    image_start_end: bool = False,
    is_prompt: bool = False,
) -> EncodedConversation:
    """Return ids and labels of a conversation with a single position for each image slot, whatever the length.

    Args:
        conversations: As for `encode_conversation`.
        tokenizer: A fast tokenizer.
        template: Name of a template.
        has_images: Whether ``<image>`` is an image slot; else it is literal text.
        image_start_end: Put ``<im_start>`` and ``<im_end>`` around each slot.
        is_prompt: The last turn is a question to be answered.

    Raises:
        RecordError: A turn is malformed, turns do not alternate, or an answer is empty.
        InputError: The tokenizer does not know the marks of ``image_start_end``, or has no template.
    """
    is_known = tokenizer.backend_tokenizer.token_to_id
    if image_start_end and has_images and None in (is_known(IMAGE_START), is_known(IMAGE_END)):
        raise InputError(
            f"image_start_end: the tokenizer does not know {IMAGE_START} and {IMAGE_END}; "
            "add them as special tokens, or switch the marks off"
        )
    segments = render_conversation(
        parse_turns(conversations),
        template,
        has_images=has_images,
        tokenizer=tokenizer,
        image_start_end=image_start_end,
        is_prompt=is_prompt,
    )
    # A Jinja template writes the BOS itself.
    return encode_segments(segments, tokenizer, adds_bos=template != "chat")


def encode_segments(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase, *, adds_bos: bool = True
) -> EncodedConversation:
    """Return the ids and labels of rendered segments, a single position for each image slot.

    The text between two image slots is tokenized as a whole, because SentencePiece joins across segments.
    """
    stretches: list[list[Segment]] = [[]]
    for segment in segments:
        if segment.kind == "image":
            stretches.append([])
        else:
            stretches[-1].append(segment)
    # Only the BOS is read off the tokenizer's own frame: a template writes its end marks itself.
    frame = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids if adds_bos else []
    ids: list[int] = frame[:1] if frame[:1] == [tokenizer.bos_token_id] else []
    labels: list[int] = [IGNORE_INDEX] * len(ids)
    for number, stretch in enumerate(stretches):
        if number > 0:
            ids.append(IMAGE_TOKEN_INDEX)
            labels.append(IGNORE_INDEX)
        # LLaVA: the stretch after an image is tokenized as a text of its own, with SentencePiece's dummy prefix.
        tokens = _encode_text(stretch, tokenizer)
        ids += [token for token, _ in tokens]
        labels += [token if is_supervised else IGNORE_INDEX for token, is_supervised in tokens]
    return EncodedConversation(torch.tensor(ids, dtype=torch.int64), torch.tensor(labels, dtype=torch.int64))


def _encode_text(stretch: Sequence[Segment], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, bool]]:
    """Return each token of a stretch and whether it is supervised: whether it begins inside an answer."""
    # The tokenizer beneath: the layer above it takes twice the time, and warns of lengths that are cut later.
    encoding = tokenizer.backend_tokenizer.encode(
        "".join(segment.text for segment in stretch), add_special_tokens=False
    )
    offsets = encoding.offsets
    # The segment in which a token begins. Behind the last one lies the place of a token that has no characters left,
    # as of a space at the very end whose offsets were trimmed.
    ends = [*accumulate(len(segment.text) for segment in stretch), sys.maxsize]
    places = [bisect_right(ends, start) for start, _ in offsets]
    if any(ends[place] < stop for place, (_, stop) in zip(places, offsets, strict=True)):
        # A token reaches across a border (byte-level BPE merges the line breaks of "assistant\n" + "\nYes"). While
        # answering, the prompt is tokenized alone; so it is here.
        return [token for segment in stretch for token in _encode_text([segment], tokenizer)]
    is_answer = [*(segment.kind == "answer" for segment in stretch), False]
    return [(token, is_answer[place]) for token, place in zip(encoding.ids, places, strict=True)]


def fill_slots(
    encoded: EncodedConversation,
    num_image_tokens: int | Sequence[int],
    *,
    max_length: int | None = None,
    on_too_long: Literal["truncate_text", "error"] = "truncate_text",
) -> EncodedConversation:
    """Return a conversation whose image slots have become the image tokens of their pictures.

    Args:
        encoded: One position for each slot, as `tokenize_conversation` returns it.
        num_image_tokens: P, the image tokens per picture, or those of each slot's picture.
        max_length: The most positions.
        on_too_long: As for `encode_conversation`.

    Raises:
        RecordError: It is too long, or there are not as many slots as pictures.
    """
    is_slot = encoded.input_ids == IMAGE_TOKEN_INDEX
    if not isinstance(num_image_tokens, int) and len(num_image_tokens) != int(is_slot.sum()):
        raise RecordError(
            f"expected an image slot for each picture, found {int(is_slot.sum())} slots and {len(num_image_tokens)} "
            "pictures; correct one of the two",
            "image_slots",
        )
    repeats = torch.ones_like(encoded.input_ids)
    repeats[is_slot] = torch.tensor(num_image_tokens, dtype=torch.int64)
    ids, labels = (values.repeat_interleave(repeats) for values in (encoded.input_ids, encoded.labels))
    if max_length is None or len(ids) <= max_length:
        return EncodedConversation(ids, labels)
    if on_too_long == "error":
        raise RecordError(
            f"max_length: expected at most {max_length} positions, found {len(ids)}; raise max_length, "
            "shorten the text, or choose another on_too_long",
            "too_long",
        )
    if lost_image_tokens := int((ids[max_length:] == IMAGE_TOKEN_INDEX).sum()):
        raise RecordError(
            f"max_length: {max_length} positions end inside or before an image ({lost_image_tokens} image tokens would "
            f"be lost); expected at least {int((ids == IMAGE_TOKEN_INDEX).nonzero().max()) + 1}",
            "too_long",
        )
    return EncodedConversation(ids[:max_length], labels[:max_length], len(ids) - max_length)
