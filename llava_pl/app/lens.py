"""One record of a run, through the loader of `fit`, to what a person can read.

In: a data module and the place of a record. Out: a `View`, which `lens_terminal.py` and `lens_html.py` draw. Nothing is
computed anew: ids, labels and pixels are read off the batch that the model would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.entries import VAL_LABEL
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


@dataclass(frozen=True, slots=True)
class View:
    """What training sees of one record, and of those that share a packed row with it.

    Args:
        source: Label of its source.
        index: Its place there.
        id: Its name.
        stretches: All positions, in order.
        num_supervised: How many tokens the loss counts.
        pictures: As the vision encoder sees them, with the colours of the file; of tiled pictures, all tiles.
        grids: How each tiled picture is cut; empty when pictures are whole.
        num_cut: Tokens that were cut off the end.
        skipped: Why it is left out of training, None if it is not.
        quarantined: Why the quarantine leaves it out, None if it does not.
        row: Name of each sample of a packed row; empty where rows are not packed.
    """

    source: str
    index: int
    id: str
    stretches: tuple[Stretch, ...]
    num_supervised: int
    pictures: tuple[Image.Image, ...] = ()
    grids: tuple[ImageGrid, ...] = ()
    num_cut: int = 0
    skipped: str | None = None
    quarantined: str | None = None
    row: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """Counts in one line."""
        num_tokens = sum(len(stretch.tokens) for stretch in self.stretches)
        share = 100 * self.num_supervised / max(num_tokens, 1)
        parts = [f"{num_tokens:,} tokens", f"{self.num_supervised:,} supervised ({share:.1f} %)"]
        num_images = len(self.grids or self.pictures)
        parts.append(f"{num_images} image{'' if num_images == 1 else 's'}")
        parts += [f"{len(self.pictures)} tiles"] if self.grids else []
        parts += [f"in a row of {len(self.row)} samples"] if self.row else []
        return ", ".join([*parts, f"{self.num_cut:,} cut off"] if self.num_cut else parts)

    @property
    def boundaries(self) -> dict[int, str]:
        """What is written before a stretch, by its number, where another sample of a packed row begins."""
        firsts = {stretch.sample: number for number, stretch in reversed(list(enumerate(self.stretches)))}
        return {
            firsts[sample]: f"sample {sample + 1} of {len(self.row)}, id {name!r}: sees nothing of the others"
            for sample, name in enumerate(self.row)
        }

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
        found = [f"left out by data.quarantine: {self.quarantined}"] if self.quarantined is not None else []
        found += [f"left out of training: {self.skipped}"] if self.skipped else []
        if not self.num_supervised and not self.skipped:
            found.append("nothing is supervised: this sample teaches nothing")
        if any(stretch.kind == "wrong" for stretch in self.stretches):
            found.append("labels differ from the tokens that they stand at: this sample teaches other words")
        return found


def look_at(data: ConversationDataModule, index: int, source: str | None = None) -> View:
    """Return what training sees of one record; where rows are packed, the row of the first epoch that it stands in.

    Args:
        data: As `fit` has it, on one device; it is not fit for training afterwards.
        index: Place of the record in its source, quarantined ones counted.
        source: Label of the source, by default the first.

    Raises:
        RecordError: The record cannot be learned from.
        InputError: There is no such source or record, or a setting is wrong.
    """
    sources = data.open_entries()
    source = next(iter(sources)) if source is None else source
    if source not in sources:
        raise InputError(f"--source: expected one of {', '.join(sources)}, found {source!r}")
    records = sources[source]
    if not 0 <= index < len(records):
        places = f"a place from 0 to {len(records) - 1}" if records else "training data"
        raise InputError(f"--index: expected {places}, found {index} of {len(records)} records of {source}")
    quarantined = data.quarantine.leave_out(source, records) if data.quarantine else {}
    reason = quarantined[index].reason if index in quarantined else None
    record = records[index]
    if isinstance(record, BadRecord):
        raise RecordError(record.message, record.reason)
    encoder = data.make_encoder()
    sample = encoder.encode_record(record)
    data.num_workers = 0
    data.is_packed = data.is_packed and reason is None and source != VAL_LABEL  # the others stand in no row
    if data.is_packed:
        batch = _packed_row(data, index, source)
    else:
        data.train_records = [record]
        batch = next(iter(data.train_dataloader()))
    return View(
        source=source,
        index=index,
        id=record.id,
        stretches=read_row(batch, encoder.tokenizer, num_image_tokens=data.num_image_tokens),
        num_supervised=batch["num_supervised"],
        pictures=tuple(show_pixels(pixels, encoder.image_transform) for pixels in batch["pixel_values"]),
        grids=tuple(batch.get("grids", ())),
        num_cut=sample.num_cut,
        skipped=sample.skipped,
        quarantined=reason,
        row=tuple(batch["ids"]) if data.is_packed else (),
    )


def _packed_row(data: ConversationDataModule, index: int, source: str) -> Batch:
    """Return the first epoch's micro batch with the record at a place of a source."""
    data.open_train_data()
    found = data.train_data.find(source, index)
    if found is None:
        raise InputError(f"--index: record {index} of {source} is in no epoch (data.records' repeats), so in no row")
    loader = data.train_dataloader()
    rows: Any = loader.sampler
    samples: Any = loader.dataset[next(row for row in rows if found in row)]
    batch: Batch = loader.collate_fn(samples)
    return batch


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
