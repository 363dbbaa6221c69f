"""Questions to samples, each with the picture that it is to be asked with.

In: where questions come from, and the encoder of samples. Out: prompts to be answered, and the order
to answer them in; nothing is padded here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Literal

from PIL import Image
from torch.utils.data import Dataset

from llava_pl.data.question_source import QuestionSource
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.tokenization import EncodedConversation
from llava_pl.types import InputError, Question, Sample

ImageSource = Literal["own", "other", "grey", "none"]
"""Which picture a question is asked with: its own, that of another question, one grey colour, or none at all."""


class QuestionDataset(Dataset[Sample]):
    """Questions to answer, each with the picture that an image source chooses (the blindness test).

    Args:
        source: What to ask.
        encoder: Turns a question into a sample.
        image_source: "other" shows the picture of the next question that has a different one.
    """

    def __init__(self, source: QuestionSource, encoder: SampleEncoder, image_source: ImageSource = "own") -> None:
        self.source = source
        self.questions = source.questions()
        self.encoder = replace(encoder, image_folder=source.image_folder) if source.image_folder else encoder
        self.image_source = image_source
        self._last: Sample | None = None  # with a picture that the next question may ask about, too

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Sample:
        question, name = self.questions[index], self._picture_name(index)
        is_shown = name is not None and self._last is not None and self._last.picture == name
        picture = self._last if is_shown else self._picture(index)
        sample = self.encoder.encode_question(question, picture, self.tokens[index])
        sample = replace(sample, index=index, picture=name)
        if name is not None:
            self._last = sample
        return sample

    @cached_property
    def tokens(self) -> list[EncodedConversation]:
        """The ids of each prompt, with one position for its image slot: all are needed before the first is answered.

        Raises:
            InputError: A prompt cannot be encoded; the question is named.
        """
        return [
            self.encoder.tokenize_question(question, has_picture=self._has_picture(question))
            for question in self.questions
        ]

    def order(self, num_first: int | None = None) -> list[int]:
        """Return the order to answer in: the longest first, questions about one picture one after the other.

        Batches are then of similar length, and a batch that does not fit into memory fails at once. Pictures are not
        opened: tiled ones count as if they were of one size.

        Args:
            num_first: That many questions from the start of the set come before all others.
        """
        num_image_tokens = self.encoder.num_image_tokens
        lengths = [
            len(tokens.input_ids) + num_image_tokens * self._has_picture(question)
            for tokens, question in zip(self.tokens, self.questions, strict=True)
        ]
        names = [self._picture_name(index) or index for index in range(len(self))]
        num_first = len(self) if num_first is None else num_first
        order: list[int] = []
        for part in (range(min(num_first, len(self))), range(num_first, len(self))):
            longest: dict[str | int, int] = {}  # of the questions about each picture
            for index in part:
                longest[names[index]] = max(longest.get(names[index], 0), lengths[index])
            first = {name: place for place, name in enumerate(longest)}
            order += sorted(part, key=lambda index: (-longest[names[index]], first[names[index]], -lengths[index]))
        return order

    def _has_picture(self, question: Question) -> bool:
        return question.image is not None and self.image_source != "none"

    def _picture_name(self, index: int) -> str | None:
        """Return what two questions that show the same picture have in common; None where that is not known."""
        if not self._has_picture(self.questions[index]) or self.image_source == "other":
            return None
        return self.image_source if self.image_source == "grey" else self.questions[index].image

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
