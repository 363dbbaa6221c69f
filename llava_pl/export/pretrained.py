"""A model and all that belongs to it: what every layout on disk is read into and written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.settings import DataSettings
from llava_pl.data.templates import TemplateName
from llava_pl.models.llava import LlavaModel
from llava_pl.types import InputError

Layout = Literal["artifact", "hf", "llava", "projector", "lora", "checkpoint"]
"""The forms on disk: this project's own folder, llava-hf's, the original's whole model, its projector and its LoRA
folder, which both need a base, and this project's training checkpoints."""

OTHERS = "the folder that `llava-pl import` makes holds every part, formats hf and llava what their readers know"
"""What an error says of the other forms where one has no place for a part."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model that another one was made from.

    Args:
        name: Hub name, or the name of its folder.
        sha256: Of its weights files, None where they were not at hand.
        select_layer: Of an encoder, which of its hidden states the model uses.
        path: Where it was found on this machine, which no file tells.
        settings: SHA-256 of each file that decides its answers, too: `config.json`, tokenizer, picture settings.
    """

    name: str
    sha256: str | None = None
    select_layer: int | None = None
    path: str | None = field(default=None, compare=False)
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapters:
    """A LoRA, as peft has it.

    Args:
        config: How it is scaled and where it sits: peft's settings as plain values, the layers by their whole names.
        weights: Its tensors by the names that they have in the model.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from, as its manifest tells.

    Args:
        layout: The form on disk that it was read from.
        bases: The models that it was made from, by part.
        trained: Names of the tensors that training changed, empty where nobody knows.
        data_hash: Of the training data, where it is known.
        base_answers: What the base said to the questions of `certificate.probe` before the trained tensors were put
            in; empty without a base.
        live_answers: What the model said as it was trained, its adapters beside its weights; empty where it never had
            any.
        adapters: The LoRA that was merged into the model, None without one.
        sentencepiece: The tokenizer's own file, which the original's code reads.
        replaced: Names of the tensors of its encoder and decoder that are neither those of `bases` nor trained by its
            run, but by an earlier one that it was started from; empty where nobody knows.
    """

    layout: Layout
    bases: Mapping[str, BaseModel] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
    data_hash: str | None = None
    base_answers: tuple[Tensor, ...] = ()
    live_answers: tuple[Tensor, ...] = ()
    adapters: Adapters | None = None
    sentencepiece: bytes | None = None
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A loaded model and what belongs to it.

    Args:
        model: The weights, in eval mode.
        tokenizer: None when neither the folder nor its base holds one.
        image_transform: Pictures to ``pixel_values``, as the model was trained.
        settings: How text and pictures became samples. Of the original's and llava-hf's folders no file says it all:
            the template is then "plain" for a stage-1 folder and "vicuna_v1", LLaVA-1.5's, for every other.
        projector: Kind of projector.
        projector_options: Its settings.
        tiling: How pictures are cut into tiles, each of which `image_transform` then takes (LLaVA-1.6); None when a
            model sees them whole.
        origin: Where it comes from.
    """

    model: LlavaModel
    tokenizer: PreTrainedTokenizerBase | None
    image_transform: ImageTransform
    settings: DataSettings
    projector: str
    origin: Origin
    projector_options: Mapping[str, Any] = field(default_factory=dict)
    tiling: Tiling | None = None

    def make_encoder(self, image_folder: Path = Path()) -> SampleEncoder:
        """Return what turns text and pictures into samples as the model was trained with.

        Args:
            image_folder: Where the pictures of records lie.

        Raises:
            InputError: There is no tokenizer.
        """
        if self.tokenizer is None:
            raise InputError("the model has no tokenizer; import it with --tokenizer MODEL first")
        return SampleEncoder(
            tokenizer=self.tokenizer,
            image_transform=self.image_transform,
            image_folder=image_folder,
            num_image_tokens=self.model.num_image_tokens,
            template=self.settings.template,
            image_start_end=self.settings.image_start_end,
            respect_exif=self.settings.respect_exif,
            tiling=self.tiling,
        )

    @property
    def template(self) -> TemplateName:
        """Name of the conversation template."""
        return self.settings.template
