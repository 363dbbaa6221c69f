"""Records and questions to samples: tokens and pictures of one row.

In: a `Record` to learn from, or a `Question` to answer. Out: a `Sample`. Nothing is padded here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from llava_pl.data.image import ImageTransform, load_image
from llava_pl.data.templates import TemplateName
from llava_pl.data.tokenization import EncodedConversation, fill_slots, tokenize_conversation
from llava_pl.types import (
    IGNORE_INDEX,
    IMAGE_SLOT,
    InputError,
    OnTooLong,
    Question,
    Record,
    RecordError,
    Sample,
    Turn,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ImageSource = Literal["own", "other", "grey", "none"]
"""Which picture a question is asked with: its own, that of another question, one grey colour, or none at all."""

PICTURE_REASONS = ("picture_missing", "picture_broken")
"""Reasons of a `RecordError` that may pass by themselves: the file, not the record, is at fault."""


@dataclass(frozen=True, slots=True)
class SampleEncoder:
    """Everything that turns text and pictures into a sample.

    Args:
        tokenizer: A fast tokenizer.
        image_transform: Picture to ``pixel_values``.
        image_folder: Where the pictures of records and questions lie.
        num_image_tokens: P, the image tokens per picture.
        template: Name of the conversation template.
        image_start_end: Put ``<im_start>`` and ``<im_end>`` around each image slot.
        respect_exif: Turn photographs as their EXIF orientation says.
        max_length: The most positions of a training sample; prompts are never cut.
        on_too_long: What becomes of longer training samples.
    """

    tokenizer: PreTrainedTokenizerBase
    image_transform: ImageTransform
    image_folder: Path
    num_image_tokens: int
    template: TemplateName = "vicuna_v1"
    image_start_end: bool = False
    respect_exif: bool = True
    max_length: int | None = None
    on_too_long: OnTooLong = "truncate_text"

    @property
    def fingerprint(self) -> str:
        """All that the text of a sample depends on beside its record, on one line."""
        text = f"{self.tokenizer.backend_tokenizer.to_str()} {self.tokenizer.chat_template}"
        tokenizer = blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        marks = (self.tokenizer.bos_token_id, self.tokenizer.pad_token_id, self.image_start_end)
        return repr((tokenizer, marks, self.template, self.num_image_tokens, self.max_length, self.on_too_long))

    def encode_record(self, record: Record, tokenized: EncodedConversation | None = None) -> Sample:
        """Return a sample to learn from.

        A sample that is dropped for its length keeps its place, as one position that supervises nothing: the order of
        an epoch, its number of batches and the place to resume at do not depend on the lengths of texts, no rank runs
        out of batches before the others, and no record counts twice.

        Args:
            record: What to encode.
            tokenized: What `tokenize` returns, if it is at hand.

        Raises:
            RecordError: A picture cannot be read or the conversation cannot be encoded; the record is named.
            InputError: A setting is wrong for every record.
        """
        sample = self.encode_text(record, tokenized)
        if not record.images or sample.skipped is not None:
            return sample
        try:
            pixels = [self.image_transform(self.load_picture(name)) for name in record.images]
        except InputError as error:
            raise _naming(record, error) from error
        return replace(sample, pixel_values=torch.stack(pixels))

    def encode_text(self, record: Record, tokenized: EncodedConversation | None = None) -> Sample:
        """Return the sample of a record without its pictures, which are not opened.

        Raises:
            RecordError: As for `encode_record`.
            InputError: As for `encode_record`.
        """
        try:
            encoded = fill_slots(
                tokenized or self.tokenize(record),
                self.num_image_tokens,
                max_length=self.max_length,
                on_too_long="truncate_text" if self.on_too_long == "truncate_text" else "error",
            )
        except InputError as error:
            if isinstance(error, RecordError) and error.reason == "too_long" and self.on_too_long == "drop":
                return self.skip(record, error.reason)
            raise _naming(record, error) from error
        return Sample(record.id, encoded.input_ids, encoded.labels, self._no_pixels(), num_cut=encoded.num_cut)

    def tokenize(self, record: Record) -> EncodedConversation:
        """Return the ids and labels of a record with one position for each image slot, whatever its length.

        Raises:
            RecordError: The conversation cannot be encoded; the record is not named.
            InputError: A setting is wrong for every record.
        """
        return self._tokenize(record.turns, has_images=bool(record.images), is_prompt=False)

    def skip(self, record: Record, reason: str) -> Sample:
        """Return what stands in the place of a record that is left out: one position that supervises nothing."""
        ids = torch.tensor([self.tokenizer.pad_token_id], dtype=torch.int64)
        return Sample(record.id, ids, torch.full_like(ids, IGNORE_INDEX), self._no_pixels(), skipped=reason)

    def count_tokens(self, record: Record) -> int:
        """Return the length T of the sample of a record, without opening its pictures.

        Raises:
            InputError: The conversation cannot be encoded; the record is named.
        """
        return len(self.encode_text(record).input_ids)

    def encode_question(self, question: Question, picture: Image.Image | None) -> Sample:
        """Return a prompt to be answered, with the picture that is given; without one its image slot goes too.

        Raises:
            InputError: The prompt cannot be encoded; the question is named.
        """
        prompt = question.prompt if picture else question.prompt.replace(IMAGE_SLOT, "").strip()
        try:
            tokenized = self._tokenize([Turn("human", prompt)], has_images=picture is not None, is_prompt=True)
            encoded = fill_slots(tokenized, self.num_image_tokens)
            pixel_values = self._no_pixels() if picture is None else self.image_transform(picture)[None]
        except InputError as error:
            raise InputError(f"question {question.id!r}: {error}") from error
        return Sample(question.id, encoded.input_ids, encoded.labels, pixel_values, question=question)

    def load_picture(self, name: str) -> Image.Image:
        """Return a picture of the image folder, RGB.

        Raises:
            RecordError: The name leads out of the image folder (path_outside; through ``..``, as an absolute path or
                over a symbolic link), or as `load_image`.
        """
        _check_inside(self.image_folder, name)
        return load_image(self.image_folder / name, respect_exif=self.respect_exif)

    def _tokenize(self, turns: Sequence[Turn], *, has_images: bool, is_prompt: bool) -> EncodedConversation:
        return tokenize_conversation(
            turns,
            self.tokenizer,
            template=self.template,
            has_images=has_images,
            image_start_end=self.image_start_end,
            is_prompt=is_prompt,
        )

    def _no_pixels(self) -> Tensor:
        return torch.empty(0, 3, self.image_transform.image_size, self.image_transform.image_size)


def _naming(record: Record, error: InputError) -> InputError:
    message = f"record {record.id!r}: {error}"
    return RecordError(message, error.reason) if isinstance(error, RecordError) else InputError(message)


def _check_inside(folder: Path, name: str) -> None:
    try:
        folder, path = folder.resolve(), (folder / name).resolve()
    except (ValueError, RuntimeError):  # a null character, a lone surrogate, links in a circle: nothing can be opened
        return
    if not path.is_relative_to(folder):
        raise RecordError(
            f"picture {name!r}: expected a file inside the image folder {folder}, found {path}; move the picture into "
            "the folder, or choose the folder that holds all pictures",
            "path_outside",
        )


class RecordDataset(Dataset[Sample]):
    """Records to learn from, encoded when they are asked for.

    A picture that cannot be read is tried again: disks in a network fail for moments. If it stays so, the run stops, or
    the record is left out, said aloud and counted. No other record ever takes its place.

    Args:
        records: What to learn from.
        encoder: Makes their samples.
        tokens: What the encoder's `tokenize` returns for each record, if it is at hand.
        skips_broken: Leave out records whose picture cannot be read.
        retry_after_seconds: How long to wait before each further try.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoder: SampleEncoder,
        *,
        tokens: Sequence[EncodedConversation] | None = None,
        skips_broken: bool = False,
        retry_after_seconds: Sequence[float] = (),
    ) -> None:
        self.records = records
        self.encoder = encoder
        self.tokens = tokens
        self.skips_broken = skips_broken
        self.retry_after_seconds = tuple(retry_after_seconds)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        tokenized = None if self.tokens is None else self.tokens[index]
        return replace(self._encode(record, tokenized, self.retry_after_seconds), index=index)

    def _encode(self, record: Record, tokenized: EncodedConversation | None, waits: Sequence[float]) -> Sample:
        try:
            return self.encoder.encode_record(record, tokenized)
        except RecordError as error:
            if error.reason not in PICTURE_REASONS or not (waits or self.skips_broken):
                raise
            if not waits:
                warnings.warn(f"{error}; the record is left out", stacklevel=2)
                return self.encoder.skip(record, error.reason)
        time.sleep(waits[0])
        return self._encode(record, tokenized, waits[1:])


class PackedDataset(Dataset[list[Sample]]):
    """The samples of a dataset by lists of indices, as a loader of packed rows asks for them."""

    def __init__(self, dataset: RecordDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, indices: Sequence[int]) -> list[Sample]:
        return [self.dataset[index] for index in indices]


class QuestionDataset(Dataset[Sample]):
    """Questions to answer, each with the picture that an image source chooses (the blindness test).

    Args:
        questions: What to ask.
        encoder: Turns a question into a sample.
        image_source: "other" shows the picture of the next question that has a different one.
    """

    def __init__(
        self, questions: Sequence[Question], encoder: SampleEncoder, image_source: ImageSource = "own"
    ) -> None:
        self.questions = questions
        self.encoder = encoder
        self.image_source = image_source

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Sample:
        return self.encoder.encode_question(self.questions[index], self._picture(index))

    def _picture(self, index: int) -> Image.Image | None:
        name = self.questions[index].image
        if name is None or self.image_source == "none":
            return None
        if self.image_source == "grey":
            size = self.encoder.image_transform.image_size
            return Image.new("RGB", (size, size), (128, 128, 128))
        try:
            own = self.encoder.load_picture(name)
            return own if self.image_source == "own" else self._other_picture(index, own)
        except InputError as error:
            raise InputError(f"question {self.questions[index].id!r}: {error}") from error

    def _other_picture(self, index: int, own: Image.Image) -> Image.Image:
        """Return the next picture that looks different: the same one may stand in the set under several names."""
        for offset in range(1, len(self.questions)):
            name = self.questions[(index + offset) % len(self.questions)].image
            if name is not None and (picture := self.encoder.load_picture(name)).tobytes() != own.tobytes():
                return picture
        raise InputError("image_sources: 'other' needs two different pictures, found only one")
