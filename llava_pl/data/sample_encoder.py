"""A record to a sample: tokens and pictures of one row, of a question too.

In: a `Record` to learn from, or a `Question` to answer. Out: a `Sample`. Nothing is padded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from llava_pl.data.anyres import Tiling
from llava_pl.data.feature_store import PictureFeatures
from llava_pl.data.image import ImageTransform
from llava_pl.data.picture_files import find_picture, load_image, read_picture_size
from llava_pl.data.templates import TemplateName
from llava_pl.data.tokenization import EncodedConversation, fill_slots, tokenize_conversation
from llava_pl.types import (
    IGNORE_INDEX,
    IMAGE_SLOT,
    IMAGE_TOKEN_INDEX,
    ImageGrid,
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
        tiling: How pictures are cut into tiles, each of which is then transformed; None leaves them whole.
        features: What the vision encoder makes of the pictures of records, which are then not opened; None opens them.
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
    tiling: Tiling | None = None
    features: PictureFeatures | None = None

    @property
    def fingerprint(self) -> str:
        """All that the text of a sample depends on beside its record, on one line."""
        text = f"{self.tokenizer.backend_tokenizer.to_str()} {self.tokenizer.chat_template}"
        tokenizer = blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        marks = (self.tokenizer.bos_token_id, self.tokenizer.pad_token_id, self.image_start_end)
        # The length of a sample with tiled pictures depends on the pictures as well.
        tiles = (self.tiling, str(self.image_folder), self.respect_exif) if self.tiling else None
        lengths = (self.num_image_tokens, self.max_length, self.on_too_long)
        return repr((tokenizer, marks, self.template, *lengths, tiles))

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
            if (features := self.features) is not None:
                rows = [self._look_up(name, features) for name in record.images]
                return replace(sample, patch_features=torch.stack(rows))
            pixel_values = self._transform([self.load_picture(name) for name in record.images])
        except InputError as error:
            raise _naming(record, error) from error
        return replace(sample, pixel_values=pixel_values)

    def encode_text(self, record: Record, tokenized: EncodedConversation | None = None) -> Sample:
        """Return the sample of a record without its pictures, which are not opened; of tiled ones the headers are.

        Raises:
            RecordError: As for `encode_record`.
            InputError: As for `encode_record`.
        """
        try:
            grids = self._make_grids(
                read_picture_size(find_picture(self.image_folder, name), respect_exif=self.respect_exif)
                for name in record.images
            )
            encoded = fill_slots(
                tokenized or self.tokenize(record),
                [grid.num_tokens(self.num_image_tokens) for grid in grids] or self.num_image_tokens,
                max_length=self.max_length,
                on_too_long="truncate_text" if self.on_too_long == "truncate_text" else "error",
            )
        except InputError as error:
            if isinstance(error, RecordError) and error.reason == "too_long" and self.on_too_long == "drop":
                return self.skip(record, error.reason)
            raise _naming(record, error) from error
        sample = self._start(record.id, encoded.input_ids, encoded.labels)
        return replace(sample, num_cut=encoded.num_cut, grids=grids)

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
        return replace(self._start(record.id, ids, torch.full_like(ids, IGNORE_INDEX)), skipped=reason)

    def count_tokens(self, record: Record) -> int:
        """Return the length T of the sample of a record, without opening its pictures; of tiled ones, their headers.

        Raises:
            InputError: The conversation cannot be encoded, or a header cannot be read; the record is named.
        """
        return len(self.encode_text(record).input_ids)

    def encode_question(
        self, question: Question, picture: Image.Image | Sample | None, tokenized: EncodedConversation | None = None
    ) -> Sample:
        """Return a prompt to be answered, with the picture that is given; without one its image slot goes too.

        Args:
            question: What to ask.
            picture: What to show with it, or a sample that shows it already.
            tokenized: What `tokenize_question` returns, if it is at hand.

        Raises:
            InputError: The prompt cannot be encoded; the question is named.
        """
        tokenized = tokenized or self.tokenize_question(question, has_picture=picture is not None)
        try:
            if isinstance(picture, Sample):
                grids, pixel_values = picture.grids, picture.pixel_values
            else:
                pictures = [picture] if picture else []
                grids = self._make_grids(picture.size for picture in pictures)
                pixel_values = self._transform(pictures)
            sizes = [grid.num_tokens(self.num_image_tokens) for grid in grids] or self.num_image_tokens
            encoded = fill_slots(tokenized, sizes)
        except InputError as error:
            raise InputError(f"question {question.id!r}: {error}") from error
        sample = self._start(question.id, encoded.input_ids, encoded.labels)
        return replace(sample, pixel_values=pixel_values, question=question, grids=grids)

    def tokenize_question(self, question: Question, *, has_picture: bool) -> EncodedConversation:
        """Return the ids of a prompt with one position for its image slot, which goes where no picture is shown.

        Raises:
            InputError: The prompt cannot be encoded; the question is named.
        """
        prompt = question.prompt if has_picture else question.prompt.replace(IMAGE_SLOT, "").strip()
        try:
            return self._tokenize([Turn("human", prompt)], has_images=has_picture, is_prompt=True)
        except InputError as error:
            raise InputError(f"question {question.id!r}: {error}") from error

    def encode_turns(self, turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> Sample:
        """Return a conversation with the pictures that are given: a prompt where a question is last.

        Args:
            turns: Questions and answers in turn; image slots stand where pictures are shown.
            pictures: One for each slot, RGB.

        Raises:
            InputError: There are not as many slots as pictures, or the template has no place for such a conversation.
        """
        is_prompt = not turns or turns[-1].role == "human"
        tokenized = self._tokenize(turns, has_images=bool(pictures), is_prompt=is_prompt)
        grids = self._make_grids(picture.size for picture in pictures)
        sizes = [grid.num_tokens(self.num_image_tokens) for grid in grids] or [self.num_image_tokens] * len(pictures)
        encoded = fill_slots(tokenized, sizes)
        sample = self._start("conversation", encoded.input_ids, encoded.labels)
        return replace(sample, pixel_values=self._transform(pictures), grids=grids)

    def load_picture(self, name: str) -> Image.Image:
        """Return a picture of the image folder, RGB.

        Raises:
            RecordError: As `find_picture` and `load_image`.
        """
        return load_image(find_picture(self.image_folder, name), respect_exif=self.respect_exif)

    def encode_picture(self, name: str) -> Sample:
        """Return a sample that is one picture of the image folder, and no word.

        Raises:
            RecordError: As `load_picture`, or the picture is too elongated.
        """
        ids = torch.full((self.num_image_tokens,), IMAGE_TOKEN_INDEX)
        sample = self._start(name, ids, torch.full_like(ids, IGNORE_INDEX))
        return replace(sample, pixel_values=self._transform([self.load_picture(name)]))

    def find_seen(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return what the model sees of a picture of some width and height, as `ImageTransform.find_seen`."""
        return (0.0, 0.0, float(size[0]), float(size[1])) if self.tiling else self.image_transform.find_seen(size)

    def _start(self, name: str, input_ids: Tensor, labels: Tensor) -> Sample:
        """Return a sample without pictures."""
        nothing = None if self.features is None else self.features.nothing
        table = self.image_transform.value_of_level
        return Sample(name, input_ids, labels, self._transform([]), patch_features=nothing, value_of_level=table)

    def _look_up(self, name: str, features: PictureFeatures) -> Tensor:
        if (found := features.get(name)) is not None:
            return found
        self.encode_picture(name)  # which says as ever what is wrong with it
        raise RecordError(
            f"picture {name!r}: could not be read, or changed, when features were computed, and can be read now; "
            "go on with --ckpt_path last, which computes its features",
            "picture_broken",
        )

    def _tokenize(self, turns: Sequence[Turn], *, has_images: bool, is_prompt: bool) -> EncodedConversation:
        return tokenize_conversation(
            turns,
            self.tokenizer,
            template=self.template,
            has_images=has_images,
            image_start_end=self.image_start_end,
            is_prompt=is_prompt,
        )

    def _make_grids(self, sizes: Iterable[tuple[int, int]]) -> tuple[ImageGrid, ...]:
        return tuple(self.tiling.grid(size) for size in sizes) if self.tiling else ()

    def _transform(self, pictures: Sequence[Image.Image]) -> Tensor:
        tiles = [tile for picture in pictures for tile in self.tiling.cut(picture)] if self.tiling else pictures
        if tiles:
            return torch.stack([self.image_transform.prepare(tile) for tile in tiles])
        size = self.image_transform.image_size
        dtype = torch.float32 if self.image_transform.value_of_level is None else torch.uint8
        return torch.empty(0, 3, size, size, dtype=dtype)


def _naming(record: Record, error: InputError) -> InputError:
    message = f"record {record.id!r}: {error}"
    return RecordError(message, error.reason) if isinstance(error, RecordError) else InputError(message)
