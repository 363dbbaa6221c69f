"""Names of folders to the encoder of samples: the tokenizer and the picture settings are read here.

In: the settings of a data module. Out: a `SampleEncoder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llava_pl.data.anyres import Tiling
from llava_pl.data.image import ImageTransform
from llava_pl.data.llama_tokenizer import load_tokenizer
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.special_tokens import add_image_tokens
from llava_pl.data.templates import TemplateName
from llava_pl.types import InputError, OnTooLong


def load_encoder(
    *,
    tokenizer: str,
    image_processor: str,
    num_image_tokens: int,
    image_folder: Path,
    template: TemplateName,
    image_aspect: Literal["pad", "square", "anyres"],
    image_start_end: bool,
    image_patch_token: bool,
    respect_exif: bool,
    legacy_tokenizer: bool | None,
    max_length: int,
    on_too_long: OnTooLong,
    tiling: Tiling | None,
) -> SampleEncoder:
    """Return the encoder that the settings of a data module describe; see `ConversationDataModule` for these.

    Raises:
        InputError: A folder is missing, or holds something else.
    """
    if not image_folder.is_dir():
        raise InputError(f"data.image_folder: {image_folder}: no such folder; check the path")
    square_by: Literal["pad", "square"] = "pad" if image_aspect == "pad" else "square"  # tiles are squares
    words = load_tokenizer(tokenizer, legacy=legacy_tokenizer)
    add_image_tokens(words, image_patch_token=image_patch_token, image_start_end=image_start_end)
    return SampleEncoder(
        tokenizer=words,
        image_transform=ImageTransform.from_pretrained(image_processor, aspect=square_by),
        image_folder=image_folder,
        num_image_tokens=num_image_tokens,
        template=template,
        image_start_end=image_start_end,
        respect_exif=respect_exif,
        max_length=max_length,
        on_too_long=on_too_long,
        tiling=tiling,
    )
