"""Whether two forms of a model are asked alike: the same ids of a text, the same prompts, the same pixel values.

In: two forms as they were read. Out: a `Likeness` each for tokenizer, template and picture settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava_pl.data.conversation import render_conversation
from llava_pl.export.hf_processor import SAMPLE_SIZES
from llava_pl.export.pretrained import Pretrained
from llava_pl.types import IMAGE_END, IMAGE_PATCH, IMAGE_SLOT, IMAGE_START, InputError, Turn

TEXTS = (
    "",
    "What is in the picture?",
    " two  spaces,   three \tand a tab",
    "USER: a line\nand another\n\nASSISTANT: yes</s>USER: more",
    "3.14 + 42 = 45.14; 1,000,000",
    "don't, it's, I'll - \"quoted\" (twice) [once]",
    "def f(x):\n    return {x: x ** 2}",
    "na\u00efve caf\u00e9, \u00dcbergr\u00f6\u00dfe",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f9f6 \U0001f469\u200d\U0001f52c",
    "<s>[INST] <|im_start|>user <|eot_id|>",
    f"{IMAGE_PATCH}{IMAGE_START} {IMAGE_END}",
)
"""What tokenizers are known to read differently, and the marks of pictures."""

QUESTION, ANSWER = Turn("human", f"{IMAGE_SLOT}\nWhat is  it?"), Turn("gpt", "A dog.")


@dataclass(frozen=True, slots=True)
class Likeness:
    """Whether two forms are alike in one way of asking.

    Args:
        what: "tokenizer", "template" or "pictures".
        is_same: None where one of them does not tell.
        finding: What was found, as the rest of a line.
    """

    what: str
    is_same: bool | None
    finding: str

    def __str__(self) -> str:
        """Return it as a line of a report."""
        return f"{self.what:10}  {self.finding}"


@dataclass(frozen=True, slots=True)
class Asking:
    """How one form of a model is asked, as far as it tells.

    Args:
        name: What it is called in a finding.
        ids: Of `TEXTS`, each with the marks that the tokenizer puts around it; None without a tokenizer.
        template: Its name, None where no file tells it.
        prompts: Of a training sample and of a question; None where no file tells the template.
        settings: How pictures become square, or the sizes that they are cut into tiles at.
        pixels: Of pictures of `SAMPLE_SIZES`.
        is_upright: Whether photographs are turned by their EXIF orientation, None where no file tells.
    """

    name: str
    ids: Sequence[Sequence[int]] | None
    template: str | None
    prompts: Sequence[str] | None
    settings: str
    pixels: Sequence[Tensor]
    is_upright: bool | None


def read_asking(pretrained: Pretrained, name: str, *, is_told: bool) -> Asking:
    """Return how a model is asked.

    Args:
        pretrained: What was read.
        name: What findings call it.
        is_told: Whether its files tell the settings of its data; those of other programs do not.
    """
    settings, tokenizer = pretrained.settings, pretrained.tokenizer
    pictures = [Image.linear_gradient("L").resize(size).convert("RGB") for size in SAMPLE_SIZES]
    tiles = ", ".join(f"{width} x {height}" for width, height in settings.grid_pinpoints or ())
    return Asking(
        name=name,
        ids=None if tokenizer is None else encode_texts(tokenizer),
        template=settings.template if is_told else None,
        prompts=_render(pretrained) if is_told else None,
        settings=f"{settings.image_aspect} of {tiles}" if tiles else settings.image_aspect,
        pixels=[pretrained.image_transform(picture) for picture in pictures],
        is_upright=settings.respect_exif if is_told else None,
    )


def encode_texts(tokenizer: PreTrainedTokenizerBase, *, adds_marks: bool = True) -> list[list[int]]:
    """Return the ids of `TEXTS`, with the marks that the tokenizer puts around a text or without."""
    encode = tokenizer.backend_tokenizer.encode
    return [encode(text, add_special_tokens=adds_marks).ids for text in TEXTS]


def compare_asking(a: Asking, b: Asking) -> list[Likeness]:
    """Return whether two forms are asked alike: tokenizer, template, pictures."""
    return [_compare_ids(a, b), _compare_prompts(a, b), _compare_pictures(a, b)]


def check_alike(rows: Sequence[Likeness], what: str) -> None:
    """Check that two forms are asked alike, as far as they tell.

    Raises:
        InputError: They are not.
    """
    for row in rows:
        if row.is_same is False:
            raise InputError(f"{what}: not certified: {row.what}: {row.finding}; nothing was kept")


def compare_ids(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> Likeness:
    """Return whether two tokenizers gave the same ids for `TEXTS`."""
    odd = [text for text, one, two in zip(TEXTS, a, b, strict=True) if list(one) != list(two)]
    if odd:
        return Likeness("tokenizer", False, f"other ids for {len(odd)} of {len(TEXTS)} texts, such as {odd[0]!r}")
    return Likeness("tokenizer", True, f"the same ids for {len(TEXTS)} texts")


def _compare_ids(a: Asking, b: Asking) -> Likeness:
    if a.ids is None or b.ids is None:
        return Likeness("tokenizer", None, f"not compared: {_names(a, b, 'ids')} without one")
    return compare_ids(a.ids, b.ids)


def _compare_prompts(a: Asking, b: Asking) -> Likeness:
    if a.prompts is None or b.prompts is None:
        return Likeness("template", None, f"not compared: {_names(a, b, 'prompts')} without one")
    if a.prompts == b.prompts:
        return Likeness("template", True, f"the same {len(a.prompts)} prompts ({a.template})")
    one, two = next(pair for pair in zip(a.prompts, b.prompts, strict=True) if pair[0] != pair[1])
    differs = (x != y for x, y in zip(one, two, strict=False))
    place = next((index for index, is_odd in enumerate(differs) if is_odd), min(len(one), len(two)))
    parts = (f"{text[place : place + 24]!r} ({form.template})" for text, form in ((one, a), (two, b)))
    return Likeness("template", False, f"other prompts, from character {place} on: {' and '.join(parts)}")


def _compare_pictures(a: Asking, b: Asking) -> Likeness:
    if a.settings != b.settings:
        return Likeness("pictures", False, f"{a.settings} and {b.settings}")
    for size, one, two in zip(SAMPLE_SIZES, a.pixels, b.pixels, strict=True):
        if not torch.equal(one, two):
            return Likeness("pictures", False, f"other pixel values for a picture of {size[0]} x {size[1]}")
    finding = f"the same pixel values for {len(SAMPLE_SIZES)} pictures ({a.settings})"
    if a.is_upright is None or b.is_upright is None:
        return Likeness("pictures", True, f"{finding}; {_names(a, b, 'is_upright')} silent about turning photographs")
    if a.is_upright != b.is_upright:
        upright = a.name if a.is_upright else b.name
        return Likeness("pictures", False, f"photographs are turned upright for {upright} alone")
    return Likeness("pictures", True, finding)


def _names(a: Asking, b: Asking, field: str) -> str:
    """Return the forms that do not tell something."""
    names = [form.name for form in (a, b) if getattr(form, field) is None]
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _render(pretrained: Pretrained) -> list[str] | None:
    """Return the text of a training sample and of a question, None where the tokenizer has the template and is none."""
    settings, tokenizer = pretrained.settings, pretrained.tokenizer
    if settings.template == "chat" and tokenizer is None:
        return None
    prompts = []
    for turns, is_prompt in (([QUESTION, ANSWER], False), ([QUESTION], True)):
        segments = render_conversation(
            turns,
            settings.template,
            has_images=True,
            tokenizer=tokenizer,
            image_start_end=settings.image_start_end,
            is_prompt=is_prompt,
        )
        prompts.append("".join(segment.text for segment in segments))
    return prompts
