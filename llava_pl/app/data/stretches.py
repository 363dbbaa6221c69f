"""A row of a batch to stretches of tokens, in words that a person can read.

In: the batch that the model would get. Out: `Stretch`es, of which `lens.py` makes a `View`, and pictures in the colours
of their files. Nothing is computed anew: ids, labels and pixels are read off the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from PIL import Image

from llava_pl.data.image import ImageTransform
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, Batch
from llava_pl.visible import visible

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Kind = Literal["read", "learn", "image", "wrong"]

MEANINGS = {
    "read": "read, not supervised",
    "learn": "learned: supervised",
    "image": "filled by a picture",
    "wrong": "label and token differ",
    "cut": "cut off, never seen",
}
"""What a stretch of tokens is, in words; both views show them as their legend."""


@dataclass(frozen=True, slots=True)
class Token:
    """One position of a row.

    Args:
        position: Its position in its sample.
        id: Its id; IMAGE_TOKEN_INDEX where a picture stands.
        text: Its characters, control characters written out.
        kind: What training does with it.
        is_special: It is an end mark or another special token.
    """

    position: int
    id: int
    text: str
    kind: Kind
    is_special: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens of one kind; an image has one of its own.

    Args:
        kind: What training does with them.
        tokens: At least one.
        sample: Number of the sample in its row that they are of; 0 where rows are not packed.
    """

    kind: Kind
    tokens: tuple[Token, ...]
    sample: int = 0

    @property
    def span(self) -> str:
        """First and last position."""
        first, last = self.tokens[0].position, self.tokens[-1].position
        return str(first) if first == last else f"{first}-{last}"


def read_row(batch: Batch, tokenizer: PreTrainedTokenizerBase, *, num_image_tokens: int) -> tuple[Stretch, ...]:
    """Return the first row of a batch, without padding, as stretches of one kind."""
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    mask = batch["attention_mask"][0].tolist() if "attention_mask" in batch else [1] * len(ids)
    lengths = batch.get("sequence_lengths", [len(ids)])
    places = [(sample, position) for sample, length in enumerate(lengths) for position in range(length)]
    sizes = [grid.num_tokens(num_image_tokens) for grid in batch.get("grids", ())]
    sizes = sizes or [num_image_tokens] * len(batch["pixel_values"])
    pictures = iter([number for number, size in enumerate(sizes) for _ in range(size)])
    special = set(tokenizer.all_special_ids)
    tokens: list[tuple[tuple[Kind, int, int | None], Token]] = []  # each with what its stretch has in common
    for id_, label, is_attended, (sample, position) in zip(ids, labels, mask, places, strict=True):
        if is_attended:
            is_image, kind = id_ == IMAGE_TOKEN_INDEX, _kind(id_, label)
            picture = next(pictures) if is_image else None
            text = "" if is_image else token_text(id_, tokenizer)
            token = Token(position, id_, text, kind, is_special=id_ in special)
            tokens.append(((kind, sample, picture if kind == "image" else None), token))
    return tuple(
        Stretch(kind, tuple(token for _, token in group), sample)
        for (kind, sample, _), group in groupby(tokens, lambda pair: pair[0])
    )


def _kind(token: int, label: int) -> Kind:
    if label == IGNORE_INDEX:
        return "image" if token == IMAGE_TOKEN_INDEX else "read"
    return "learn" if token == label else "wrong"


def token_text(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the characters of one token, as they stand in the text; a piece of a character by its own name."""
    name = str(tokenizer.convert_ids_to_tokens(token))
    if "\u2581" in name:  # SentencePiece's space, which decoding one token alone would lose
        return visible(name.replace("\u2581", " "))
    text = str(tokenizer.decode([token], skip_special_tokens=False))
    return visible(name if not text or "\ufffd" in text else text)


def show_pixels(pixel_values: Tensor, transform: ImageTransform) -> Image.Image:
    """Return the picture that normalised pixels ``(C, H, W)`` show, in its own colours."""
    pixels = pixel_values.permute(1, 2, 0)
    if transform.processor.do_normalize:
        mean, std = (_row(pixels, getattr(transform.processor, name)) for name in ("image_mean", "image_std"))
        pixels = pixels * std + mean
    levels = (pixels * 255).round().clamp(0, 255).byte()
    return Image.frombytes("RGB", (levels.shape[1], levels.shape[0]), levels.contiguous().numpy().tobytes())


def _row(like: Tensor, values: Sequence[float]) -> Tensor:
    return like.new_tensor(list(values))
