"""Whether two forms of a model give the same answers: asked, not assumed.

In: two models, or one and what another has said. Out: a `Comparison` for each question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_pl.models.llava import LlavaModel
from llava_pl.types import IMAGE_TOKEN_INDEX, ImageGrid, InputError

QUESTIONS = ("text", "one image", "two images")
NUM_WORDS, HIGHEST_WORD = 24, 61
EMBEDDINGS = (".embed_tokens.weight", ".wte.weight")
TOLERANCES = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The most that logits may differ, as a share of the largest, by the coarsest dtype of a model's weights. Forms of the
same weights differ by nothing at all; a merged LoRA adds the same numbers in another order (about 1e-6 in float32),
and weights that are rounded on their way move logits by a few units of their dtype. A layer that is lost is far
away."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the answers of two models differ.

    Args:
        question: What was asked: "text", "one image" or "two images".
        logit_difference: The largest, over all positions and words.
        logit_scale: The largest logit, by which a difference is judged.
        token_agreement: Share of the positions at which both would say the same word.
    """

    question: str
    logit_difference: float
    logit_scale: float
    token_agreement: float

    def is_within(self, dtype: torch.dtype) -> bool:
        """Whether the difference is no more than what rounding to a dtype explains; never if there is a NaN."""
        return self.logit_difference <= TOLERANCES[dtype] * self.logit_scale


def questions(num_words: int, image_size: int, num_image_tokens: int) -> list[tuple[Tensor, Tensor | None]]:
    """Return ids and pictures of the fixed questions, in the order of `QUESTIONS`.

    Args:
        num_words: Ids below this one are asked for.
        image_size: Height and width of a picture, in pixels.
        num_image_tokens: P.
    """
    words = (torch.arange(NUM_WORDS) * 7 + 3) % min(num_words, HIGHEST_WORD)
    picture = [IMAGE_TOKEN_INDEX] * num_image_tokens
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, image_size, image_size, generator=generator)
    head, middle, tail = words[:8].tolist(), words[8:16].tolist(), words[16:].tolist()
    return [
        (words[None], None),
        (torch.tensor([[*head, *picture, *tail]]), pictures[:1]),
        (torch.tensor([[*head, *picture, *middle, *picture, *tail]]), pictures),
    ]


@torch.inference_mode()
def probe(model: LlavaModel) -> tuple[Tensor, ...]:
    """Return what a model, on whatever device, answers to the fixed questions: float32 logits ``(T, V)`` for each."""
    device = next(model.parameters()).device
    image_size: Any = model.vision_encoder.model.config.image_size
    asked = questions(model.decoder.num_embeddings, image_size, model.num_image_tokens)
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    answers = []
    for ids, pictures in asked:
        if model.image_newline is not None and pictures is not None:
            answers.append(_ask_tiled(model, ids, pictures))
            continue
        output = model(ids.to(device), None if pictures is None else pictures.to(device))
        answers.append(output.logits[0].float().cpu())
    for module in was_training:
        module.training = True
    return tuple(answers)


def compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> list[Comparison]:
    """Return how the answers of two models to the same questions differ.

    Where one knows more words than the other, as an exported model that got a word for pictures, the words that both
    know are compared.

    Raises:
        InputError: The models do not take the same questions.
    """
    rows = []
    for question, a, b in zip(QUESTIONS, found, expected, strict=True):
        if len(a) != len(b):
            raise InputError(
                f"certificate: the models do not compare: {question} is {len(a)} positions for one, {len(b)} for the "
                "other; they have other vision encoders"
            )
        num_words = min(a.shape[-1], b.shape[-1])
        a, b = a[:, :num_words], b[:, :num_words]
        difference = float((a - b).abs().max())
        agreement = float((a.argmax(-1) == b.argmax(-1)).float().mean())
        rows.append(Comparison(question, difference, float(b.abs().max()), agreement))
    return rows


def check_same(rows: Sequence[Comparison], dtype: torch.dtype, what: str) -> None:
    """Check that two models are one up to rounding.

    Raises:
        InputError: They are not.
    """
    for row in rows:
        if not row.is_within(dtype):
            raise InputError(
                f"{what}: not certified: on {row.question} the logits differ by {row.logit_difference:.3g} of "
                f"{row.logit_scale:.3g}, and {row.token_agreement:.0%} of the words agree; nothing was kept"
            )


def check_differs(
    found: Sequence[Tensor], base: Sequence[Tensor], live: Sequence[Tensor], trained: Sequence[str], what: str
) -> list[Comparison]:
    """Return how a model differs from its base, and check that training is in it.

    Args:
        found: Answers of the model that was read back.
        base: Those of its base; empty without one.
        live: Those of the model that was to be carried.
        trained: Names of the tensors that were trained.
        what: What an error begins with.

    Raises:
        InputError: The model is as near to its base as to the one that was to be carried, on a question that the
            trained part has a say in.
    """
    if not base:
        return []
    rows = compare(found, base)
    # No question holds the words whose embeddings alone may have learned; the projector is silent without a picture.
    heard = [name for name in trained if not name.endswith(EMBEDDINGS)]
    asked = 0 if any(name.startswith("decoder.") for name in heard) else 1
    if heard and rows[asked].logit_difference <= 2 * compare(found, live)[asked].logit_difference:
        raise InputError(
            f"{what}: not certified: on {QUESTIONS[asked]} the logits differ from those of the base by "
            f"{rows[asked].logit_difference:.3g} alone, as if it had not been trained; nothing was kept"
        )
    return rows


def coarsest_dtype(model: LlavaModel) -> torch.dtype:
    """Return the dtype of a model's weights that rounds most."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.dtype in TOLERANCES}
    return max(dtypes, key=lambda dtype: TOLERANCES[dtype], default=torch.float32)


def _ask_tiled(model: LlavaModel, ids: Tensor, pictures: Tensor) -> Tensor:
    """Return the logits where each picture is two tiles: the whole of it, and one tile at full size."""
    side = round(model.num_image_tokens**0.5)
    grid = ImageGrid(1, 1, side, side)
    row = [IMAGE_TOKEN_INDEX] * (side * (side + 1))
    tiled: list[int] = []
    for index, word in enumerate(ids[0].tolist()):
        tiled.append(word)
        if word == IMAGE_TOKEN_INDEX and ids[0, index + 1] != IMAGE_TOKEN_INDEX:
            tiled += row
    device, tiles = next(model.parameters()).device, pictures.repeat_interleave(2, 0)
    output = model(torch.tensor([tiled], device=device), tiles.to(device), grids=[grid] * len(pictures))
    logits: Tensor = output.logits[0].float().cpu()
    return logits
