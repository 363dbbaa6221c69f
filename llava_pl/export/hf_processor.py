"""The text and picture side of a llava-hf folder: what stock `AutoProcessor` needs to ask as training has asked.

In: the tokenizer and picture settings of a model. Out: a `LlavaProcessor`, checked against this project's own prompts
and pixel values, and back again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import LlavaProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_pl.data.json_files import read_json_object
from llava_pl.data.tokenization import encode_conversation
from llava_pl.export.chat_template import make_chat_template
from llava_pl.export.pretrained import Pretrained
from llava_pl.export.tokenizer_files import simplify_config
from llava_pl.types import IMAGE_SLOT, IMAGE_TOKEN_INDEX, InputError, Turn

SAMPLE_TURNS = (
    (0, "What is  it?\nSay so."),
    (1, f"{IMAGE_SLOT}\nWhat is it?"),
    (2, f"{IMAGE_SLOT}\n{IMAGE_SLOT}\nWhat differs?"),
)
"""Questions with none, one and two pictures on which a processor must give the ids that training gave."""

SAMPLE_SIZES = ((9, 7), (30, 41), (64, 64))
"""Width and height of pictures on which it must give the pixel values of training."""


def with_picture_word(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """Return a copy that knows ``<image>`` as a word, and puts no begin mark in front by itself.

    The chat template writes that mark: `processor(text=...)` of a rendered prompt would otherwise give two of them, and
    servers that add none to a chat give none.
    """
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    plain["post_processor"] = None
    copy = _rebuild(tokenizer, plain, add_bos_token=False)
    copy.add_tokens([IMAGE_SLOT], special_tokens=True)
    return copy


def without_picture_word(tokenizer: PreTrainedTokenizerBase, *, adds_bos: bool) -> PreTrainedTokenizerFast:
    """Return a copy as it was before `with_picture_word`."""
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if token["content"] != IMAGE_SLOT]
    return _rebuild(tokenizer, plain, add_bos_token=adds_bos)


def make_processor(pretrained: Pretrained, tokenizer: PreTrainedTokenizerBase) -> LlavaProcessor:
    """Return the stock processor of a model, once it has given the ids and pixel values of training.

    Raises:
        InputError: It cannot be had.
    """
    encoder = pretrained.model.vision_encoder
    is_clip = encoder.model.config.model_type == "clip_vision_model"
    known = with_picture_word(tokenizer)
    settings = {
        **pretrained.image_transform.processor.to_dict(),
        "do_pad": pretrained.settings.image_aspect == "pad",
        "image_processor_type": "LlavaImageProcessor",
    }
    for adds_spaces in (False, True):
        processor = LlavaProcessor(  # type: ignore[no-untyped-call]
            LlavaImageProcessorPil.from_dict(settings),
            known,
            patch_size=encoder.model.config.patch_size,
            vision_feature_select_strategy="default" if is_clip and encoder.select_feature == "patch" else "full",
            image_token=IMAGE_SLOT,
            num_additional_image_tokens=int(is_clip),
            chat_template=make_chat_template(pretrained.settings, tokenizer, adds_spaces=adds_spaces),
        )
        difference = find_difference(pretrained, processor)
        if difference is None:
            return processor
    raise InputError(f"format hf: the stock processor does not ask as training did: {difference}")


def write_processor(processor: LlavaProcessor, folder: Path) -> None:
    """Write a processor into files that transformers 4 reads, too: there its picture settings have a file of theirs."""
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.pop("image_processor", None)
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    simplify_config(folder, processor.tokenizer, "PreTrainedTokenizerFast")


def ask(processor: Any, text: str, num_pictures: int) -> list[int]:  # noqa: ANN401  LlavaProcessor has no types
    """Return the ids that a stock processor gives for one question."""
    parts = [{"type": "image"}] * num_pictures + [{"type": "text", "text": text.replace(f"{IMAGE_SLOT}\n", "")}]
    prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    pictures = [Image.new("RGB", (8, 8))] * num_pictures
    ids: list[int] = processor(text=prompt, images=pictures or None)["input_ids"][0]
    return ids


def find_difference(pretrained: Pretrained, processor: Any) -> str | None:  # noqa: ANN401  LlavaProcessor has no types
    """Return where a stock processor asks otherwise than training did, None where it does not."""
    settings, tokenizer = pretrained.settings, pretrained.tokenizer
    picture = processor.tokenizer.convert_tokens_to_ids(IMAGE_SLOT)
    for num_pictures, text in SAMPLE_TURNS:
        if tokenizer is None or (settings.template == "plain" and num_pictures == 0):
            continue  # a caption without a picture is no training sample
        encoded = encode_conversation(
            [Turn("human", text)],
            tokenizer,
            template=settings.template,
            num_image_tokens=pretrained.model.num_image_tokens if num_pictures else 0,
            image_start_end=settings.image_start_end,
            is_prompt=True,
        )
        expected = [picture if word == IMAGE_TOKEN_INDEX else word for word in encoded.input_ids.tolist()]
        found = ask(processor, text, num_pictures)
        if found != expected:
            place = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(expected))
            return f"with {num_pictures} pictures, token {place} of {len(expected)} is another"
    for size in SAMPLE_SIZES:
        sample = Image.linear_gradient("L").resize(size).convert("RGB")
        (found,) = processor.image_processor(sample, return_tensors="pt")["pixel_values"]
        if not torch.equal(found, pretrained.image_transform(sample)):
            return f"a picture of {size[0]} x {size[1]} pixels has other pixel values"
    return None


def _rebuild(
    tokenizer: PreTrainedTokenizerBase, plain: dict[str, Any], *, add_bos_token: bool
) -> PreTrainedTokenizerFast:
    legacy = tokenizer.init_kwargs.get("legacy")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)),
        **{name: value for name in names if (value := getattr(tokenizer, name)) is not None},
        extra_special_tokens=[word for word in tokenizer.extra_special_tokens if word != IMAGE_SLOT],
        add_bos_token=add_bos_token,
        add_eos_token=False,
        model_max_length=tokenizer.model_max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=tokenizer.chat_template,
        **({} if legacy is None else {"legacy": legacy}),
    )


def read_processor_settings(folder: Path) -> dict[str, Any] | None:
    """Return the picture settings of a llava-hf folder, of transformers 4 or 5; None if there are none."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = read_json_object(folder / name)
            settings = content.get("image_processor", content)
            if isinstance(settings, dict) and "image_mean" in settings:
                return settings
    return None
