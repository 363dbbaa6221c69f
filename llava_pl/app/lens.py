"""One record of the training data, through the loader of `fit`, to what a person can read.

In: a data module and the place of a record. Out: a `View`, which `lens_terminal.py` and `lens_html.py` draw. Nothing is
computed anew: ids, labels and pixels are read off the batch that the model would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from PIL import Image

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.image import ImageTransform
from llava_pl.types import IGNORE_INDEX, IMAGE_TOKEN_INDEX, BadRecord, Batch, ImageGrid, InputError, RecordError

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
        position: Its index in the row.
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
    """Neighbouring tokens of one kind; an image has one of its own."""

    kind: Kind
    tokens: tuple[Token, ...]

    @property
    def span(self) -> str:
        """First and last position."""
        first, last = self.tokens[0].position, self.tokens[-1].position
        return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class View:
    """What training sees of one record.

    Args:
        index: Its place in the training data.
        id: Its name.
        stretches: All positions, in order.
        num_supervised: How many tokens the loss counts.
        pictures: As the vision encoder sees them, with the colours of the file; of tiled pictures, all tiles.
        grids: How each tiled picture is cut; empty when pictures are whole.
        num_cut: Tokens that were cut off the end.
        skipped: Why it is left out of training, None if it is not.
    """

    index: int
    id: str
    stretches: tuple[Stretch, ...]
    num_supervised: int
    pictures: tuple[Image.Image, ...] = ()
    grids: tuple[ImageGrid, ...] = ()
    num_cut: int = 0
    skipped: str | None = None

    @property
    def summary(self) -> str:
        """Counts in one line."""
        num_tokens = sum(len(stretch.tokens) for stretch in self.stretches)
        share = 100 * self.num_supervised / max(num_tokens, 1)
        parts = [f"{num_tokens:,} tokens", f"{self.num_supervised:,} supervised ({share:.1f} %)"]
        num_images = len(self.grids or self.pictures)
        parts.append(f"{num_images} image{'' if num_images == 1 else 's'}")
        parts += [f"{len(self.pictures)} tiles"] if self.grids else []
        return ", ".join([*parts, f"{self.num_cut:,} cut off"] if self.num_cut else parts)

    @property
    def picture_names(self) -> list[str]:
        """What each of the pictures is, such as "picture 1", or "picture 1, tile 2 of 5"; a first tile is the whole."""
        if not self.grids:
            return [f"picture {number}" for number in range(1, len(self.pictures) + 1)]
        return [
            f"picture {number}, tile {tile} of {grid.num_tiles}"
            for number, grid in enumerate(self.grids, start=1)
            for tile in range(1, grid.num_tiles + 1)
        ]

    @property
    def warnings(self) -> list[str]:
        """What a person should not overlook."""
        found = [f"left out of training: {self.skipped}"] if self.skipped else []
        if not self.num_supervised and not self.skipped:
            found.append("nothing is supervised: this sample teaches nothing")
        if any(stretch.kind == "wrong" for stretch in self.stretches):
            found.append("labels differ from the tokens that they stand at: this sample teaches other words")
        return found


def look_at(data: ConversationDataModule, index: int) -> View:
    """Return what training sees of one record.

    Args:
        data: As `fit` has it; its records are replaced by the one that is looked at.
        index: Place of the record in the training data, quarantined ones counted.

    Raises:
        RecordError: The record cannot be learned from.
        InputError: There is no such record, or a setting is wrong.
    """
    records = data.train_entries()
    if not 0 <= index < len(records):
        places = f"a place from 0 to {len(records) - 1}" if records else "training data"
        raise InputError(f"--index: expected {places}, found {index} of {len(records)} records")
    record = records[index]
    if isinstance(record, BadRecord):
        raise RecordError(record.message, record.reason)
    encoder = data.make_encoder()
    sample = encoder.encode_record(record)
    data.train_records, data.num_workers = [record], 0
    batch = next(iter(data.train_dataloader()))
    return View(
        index=index,
        id=record.id,
        stretches=read_row(batch, encoder.tokenizer, num_image_tokens=data.num_image_tokens),
        num_supervised=batch["num_supervised"],
        pictures=tuple(show_pixels(pixels, encoder.image_transform) for pixels in batch["pixel_values"]),
        grids=tuple(batch.get("grids", ())),
        num_cut=sample.num_cut,
        skipped=sample.skipped,
    )


def read_row(batch: Batch, tokenizer: PreTrainedTokenizerBase, *, num_image_tokens: int) -> tuple[Stretch, ...]:
    """Return the first row of a batch, without padding, as stretches of one kind."""
    ids, labels, mask = (batch[name][0].tolist() for name in ("input_ids", "labels", "attention_mask"))
    special = set(tokenizer.all_special_ids)
    tokens = [
        Token(
            position=position,
            id=token,
            text="" if token == IMAGE_TOKEN_INDEX else token_text(token, tokenizer),
            kind=_kind(token, label),
            is_special=token in special,
        )
        for position, (token, label, is_attended) in enumerate(zip(ids, labels, mask, strict=True))
        if is_attended
    ]
    sizes = [grid.num_tokens(num_image_tokens) for grid in batch.get("grids", ())]
    sizes = sizes or [num_image_tokens] * len(batch["pixel_values"])
    pictures = iter([number for number, size in enumerate(sizes) for _ in range(size)])
    picture_at = {token.position: next(pictures) for token in tokens if token.id == IMAGE_TOKEN_INDEX}

    def belongs_to(token: Token) -> tuple[Kind, int | None]:
        return token.kind, picture_at[token.position] if token.kind == "image" else None

    return tuple(Stretch(kind, tuple(group)) for (kind, _), group in groupby(tokens, belongs_to))


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


def visible(text: str) -> str:
    r"""Return text with line breaks marked and other control characters written out.

    >>> visible("a\x1b[31m")
    'a\\x1b[31m'
    """
    marked = text.replace("\n", "\u21b5")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in marked)


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
