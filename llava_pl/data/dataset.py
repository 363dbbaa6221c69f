"""Records and questions to samples: tokens and pictures of one row.

In: a `Record` to learn from, or a `Question` to answer. Out: a `Sample`. Nothing is padded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image
from torch.utils.data import Dataset

from llava_pl.data.image import ImageTransform, load_image
from llava_pl.data.templates import TemplateName
from llava_pl.data.tokenization import EncodedConversation, encode_conversation
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

    def encode_record(self, record: Record) -> Sample:
        """Return a sample to learn from.

        A sample that is dropped for its length keeps its place, as one position that supervises nothing: the order of
        an epoch, its number of batches and the place to resume at do not depend on the lengths of texts, no rank runs
        out of batches before the others, and no record counts twice.

        Raises:
            RecordError: A picture cannot be read or the conversation cannot be encoded; the record is named.
            InputError: A setting is wrong for every record.
        """
        try:
            pictures = [self.load_picture(name) for name in record.images]
            return self._encode(record.id, record.turns, pictures, is_prompt=False)
        except InputError as error:
            return self._refuse(record, error)

    def count_tokens(self, record: Record) -> int:
        """Return the length T of the sample of a record, without opening its pictures.

        Raises:
            InputError: The conversation cannot be encoded; the record is named.
        """
        try:
            return len(self._encode_turns(record.turns, has_pictures=bool(record.images), is_prompt=False).input_ids)
        except InputError as error:
            return len(self._refuse(record, error).input_ids)

    def encode_question(self, question: Question, picture: Image.Image | None) -> Sample:
        """Return a prompt to be answered, with the picture that is given; without one its image slot goes too.

        Raises:
            InputError: The prompt cannot be encoded; the question is named.
        """
        prompt = question.prompt if picture else question.prompt.replace(IMAGE_SLOT, "").strip()
        try:
            sample = self._encode(question.id, [Turn("human", prompt)], [picture] if picture else [], is_prompt=True)
        except InputError as error:
            raise InputError(f"question {question.id!r}: {error}") from error
        return replace(sample, question=question)

    def load_picture(self, name: str) -> Image.Image:
        """Return a picture of the image folder, RGB.

        Raises:
            RecordError: The name leads out of the image folder (path_outside; through ``..``, as an absolute path or
                over a symbolic link), or as `load_image`.
        """
        _check_inside(self.image_folder, name)
        return load_image(self.image_folder / name, respect_exif=self.respect_exif)

    def _refuse(self, record: Record, error: InputError) -> Sample:
        """Return what stands in the place of a record that is dropped; raise the error, named, for all others."""
        if isinstance(error, RecordError) and error.reason == "too_long" and self.on_too_long == "drop":
            size = self.image_transform.image_size
            ids = torch.tensor([self.tokenizer.pad_token_id], dtype=torch.int64)
            labels = torch.full_like(ids, IGNORE_INDEX)
            return Sample(record.id, ids, labels, torch.empty(0, 3, size, size), skipped=error.reason)
        message = f"record {record.id!r}: {error}"
        raise (RecordError(message, error.reason) if isinstance(error, RecordError) else InputError(message)) from error

    def _encode(self, name: str, turns: Sequence[Turn], pictures: list[Image.Image], *, is_prompt: bool) -> Sample:
        encoded = self._encode_turns(turns, has_pictures=bool(pictures), is_prompt=is_prompt)
        size = self.image_transform.image_size
        pixels = [self.image_transform(picture) for picture in pictures]
        pixel_values = torch.stack(pixels) if pixels else torch.empty(0, 3, size, size)
        return Sample(name, encoded.input_ids, encoded.labels, pixel_values, num_cut=encoded.num_cut)

    def _encode_turns(self, turns: Sequence[Turn], *, has_pictures: bool, is_prompt: bool) -> EncodedConversation:
        return encode_conversation(
            turns,
            self.tokenizer,
            template=self.template,
            num_image_tokens=self.num_image_tokens if has_pictures else 0,
            max_length=None if is_prompt else self.max_length,
            image_start_end=self.image_start_end,
            is_prompt=is_prompt,
            on_too_long="truncate_text" if self.on_too_long == "truncate_text" else "error",
        )


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
    """Records to learn from, encoded when they are asked for."""

    def __init__(self, records: Sequence[Record], encoder: SampleEncoder) -> None:
        self.records = records
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return replace(self.encoder.encode_record(self.records[index]), index=index)


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
