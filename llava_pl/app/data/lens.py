"""One record of a run, through the loader of `fit`, to what a person can read.

In: a data module and the place of a record. Out: a `View`, which `lens_terminal.py` and `lens_html.py` draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from llava_pl.app.data.stretches import Stretch, read_row, show_pixels
from llava_pl.data.clip_pixels import look_up_pixels
from llava_pl.data.conversation_datamodule import ConversationDataModule
from llava_pl.data.entries import VAL_LABEL
from llava_pl.types import BadRecord, Batch, ImageGrid, InputError, RecordError


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
    quarantined = data.quarantine.find(source, records) if data.quarantine else {}
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
        pictures=tuple(
            show_pixels(pixels, encoder.image_transform) for pixels in look_up_pixels(batch)["pixel_values"]
        ),
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
