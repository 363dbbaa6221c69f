"""Questions to samples, each with the picture that it is to be asked with.

In: questions, and the encoder of samples. Out: prompts to be answered; nothing is padded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from PIL import Image
from torch.utils.data import Dataset

from llava_pl.data.dataset import SampleEncoder
from llava_pl.types import InputError, Question, Sample

ImageSource = Literal["own", "other", "grey", "none"]
"""Which picture a question is asked with: its own, that of another question, one grey colour, or none at all."""


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
