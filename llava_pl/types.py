"""The vocabulary that every other module speaks.

Dimension letters used in shapes throughout the package:

| letter | meaning |
| --- | --- |
| B | rows of a batch |
| T | positions in a row, image tokens included |
| N | images in a batch; tiles of images where these are cut into tiles |
| P | image tokens per image, or per tile (576 for ViT-L/14 at 336 pixels) |
| C H W | channels, height and width of a picture |
| D_v | width of the vision encoder |
| D | width of the decoder |
| V | size of the vocabulary |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position that the loss does not count."""

IMAGE_TOKEN_INDEX = -200
"""Id of a position that an image fills; it is no word of any vocabulary."""

IMAGE_SLOT = "<image>"
"""The mark in a prompt that stands for one picture."""

IMAGE_PATCH = "<im_patch>"
"""A mark that `mm_use_im_patch_token` adds to the vocabulary; no prompt holds it."""

IMAGE_START = "<im_start>"
IMAGE_END = "<im_end>"
"""Marks put around each image slot by models trained with `mm_use_im_start_end`."""

Role = Literal["human", "gpt"]

OnTooLong = Literal["truncate_text", "drop", "error"]
"""What becomes of a training sample of more than ``max_length`` positions: text is cut off its end (never an image),
it is left out of training and counted, or the run stops."""


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one line: what is wrong, where, what was expected, what was found, and the next step. The command
    line prints that line alone and exits with status 2.
    """


class RecordError(InputError):
    """One record is wrong; others may be sound.

    Args:
        message: As for `InputError`.
        reason: One short word: picture_missing, picture_broken, image_slots, roles, alternation, empty_answer,
            nothing_supervised, too_long, path_outside, or invalid for the rest.
    """

    # The default lets torch make the same class again from the text of an error in a data worker.
    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One validated entry of a LLaVA JSON file.

    Args:
        id: Name of the record, unique or not.
        turns: The messages in order.
        images: File names relative to the image folder, in the order of the image slots.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadRecord:
    """An entry of a source that cannot be learned from.

    Args:
        index: Its place in the source, from 0.
        id: Its name, "" where it has none.
        reason: The word of a `RecordError`.
        message: The line of a `RecordError`.
        images: File names that it gives, as far as they can be read.
        source: Label of the source in a run; a store knows of none.
    """

    index: int
    id: str
    reason: str
    message: str
    images: tuple[str, ...] = ()
    source: str = ""

    @property
    def place(self) -> str:
        """Source and index, as reports name it."""
        return f"{self.source} {self.index}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation.

    Args:
        text: The characters, ``<image>`` for an image slot.
        kind: "prompt" is read, "answer" is read and supervised, "image" is filled by one picture.
    """

    text: str
    kind: Literal["prompt", "answer", "image"]


class Question(NamedTuple):  # no dataclass: Lightning takes batches of bf16-true apart, and refuses frozen ones
    """One question of an evaluation, with choices or without.

    Args:
        id: The identifier in the official files.
        prompt: What the model is asked; holds an image slot when there is a picture.
        choices: The options in order; the first is letter A. None where the answer is in words.
        answer: Index of the right option.
        image: File name relative to the data folder, None without a picture.
        categories: Names of the groups that its score counts in, beside ``all``.
        references: Answers that are right, as far as readings are compared with these.
    """

    id: str
    prompt: str
    choices: tuple[str, ...] = ()
    answer: int = 0
    image: str | None = None
    categories: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


class ImageGrid(NamedTuple):  # as Question
    """How the tiles of one picture become its image tokens (`image_aspect: anyres`).

    The first tile is the whole picture. The others lie side by side and make one map of patch features, of which the
    middle is kept: around it the picture was padded. Each row of what is kept ends with the newline embedding.

    Args:
        rows: Tiles below each other.
        columns: Tiles beside each other.
        height: Rows of the map that are kept.
        width: Columns of the map that are kept.
    """

    rows: int
    columns: int
    height: int
    width: int

    @property
    def num_tiles(self) -> int:
        """Tiles of the picture, the whole picture included."""
        return 1 + self.rows * self.columns

    def num_tokens(self, num_image_tokens: int) -> int:
        """Return the image tokens of the picture, where a tile has ``num_image_tokens``.

        >>> ImageGrid(rows=2, columns=2, height=36, width=48).num_tokens(576)
        2340
        """
        return num_image_tokens + self.height * (self.width + 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """The tensors of one record.

    Args:
        id: Identifier of the record or question.
        input_ids: int64 ``(T,)``; IMAGE_TOKEN_INDEX where an image token stands.
        labels: int64 ``(T,)``; IGNORE_INDEX where nothing is supervised.
        pixel_values: uint8 ``(N, C, H, W)``, levels whose values `value_of_level` tells, or float32 values; N is 0
            without a picture. Of tiled pictures, all tiles in order.
        question: What an evaluation asks, None in training.
        index: Place in its dataset, which names a sample where ids repeat; None outside of training.
        num_cut: Tokens that were cut off the end.
        skipped: The reason why the record is left out; one position without supervision then stands in its place.
        grids: One for each tiled picture; empty when pictures are not tiled, each being P image tokens.
        picture: Name of the only picture of a question: of samples with equal names, a batch holds it once.
        patch_features: float ``(N, patches, D_v)`` in the place of `pixel_values`, which then has none, where a store
            keeps what the vision encoder makes of pictures; None without one.
        value_of_level: float32 ``(3, 256)``, the value of each level of each channel; None beside values.
    """

    id: str
    input_ids: Tensor
    labels: Tensor
    pixel_values: Tensor
    question: Question | None = None
    index: int | None = None
    num_cut: int = 0
    skipped: str | None = None
    grids: tuple[ImageGrid, ...] = ()
    picture: str | None = None
    patch_features: Tensor | None = None
    value_of_level: Tensor | None = None

    @property
    def num_pictures(self) -> int:
        """N; of tiled pictures their tiles."""
        return len(self.pixel_values if self.patch_features is None else self.patch_features)


class Batch(TypedDict, total=False):
    """Padded or packed samples; a plain dictionary, so that Lightning and torch can move and pin it.

    Counts are plain integers, known without asking the device. A key is absent where it says nothing.

    Attributes:
        ids: Names of the samples.
        indices: Their places in the dataset, where each knows its own.
        input_ids: int64 ``(B, T)``, image slots expanded.
        labels: int64 ``(B, T)``, IGNORE_INDEX where nothing is supervised.
        attention_mask: int64 ``(B, T)``, zero at padding; of padded rows only.
        position_ids: int64 ``(1, T)``, restarting with each sample; of a packed row (B = 1) only.
        sequence_lengths: Positions of each sample of a packed row.
        pixel_values: float32 ``(N, C, H, W)``, the pictures of all rows in order, or their tiles; N may be 0.
        value_of_level: float32 ``(3, 256)``, and `pixel_values` are then uint8 levels; until the batch lies where the
            model runs (`data.clip_pixels.look_up_pixels`).
        patch_features: float ``(N, patches, D_v)`` in every batch of a run whose pictures are encoded already, and
            `pixel_values` then has none.
        grids: One for each tiled picture.
        pictures: The picture of each row, -1 for none, where several rows show one that is there once.
        num_tokens: Attended positions.
        num_pairs: Pairs of attended positions of one sample: the squares of lengths, added up.
        num_supervised: Supervised positions.
        num_step_supervised: Those of all micro batches on this rank that share an optimizer step; in training only.
        questions: What was asked, in evaluation only.
        skipped: Place and reason of each sample that was left out.
    """

    ids: list[str]
    indices: list[int]
    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    sequence_lengths: list[int]
    pixel_values: Tensor
    value_of_level: Tensor
    patch_features: Tensor
    grids: list[ImageGrid]
    pictures: list[int]
    num_tokens: int
    num_pairs: int
    num_supervised: int
    num_step_supervised: int
    questions: list[Question]
    skipped: list[tuple[int | None, str]]


@dataclass(frozen=True)  # without slots: DeepSpeed asks for the `vars` of what a module returns
class LossOutput:
    """The loss of a batch, not yet divided.

    Args:
        total: float scalar, sum of the cross entropy over the supervised tokens; differentiable, zero without any.
        num_supervised: int64 scalar, how many tokens were supervised.
    """

    total: Tensor
    num_supervised: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over the supervised tokens; zero, not NaN, when there are none."""
        return self.total / self.num_supervised.clamp(min=1)
