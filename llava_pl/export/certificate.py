"""Whether two forms of a model give the same answers: asked, not assumed.

In: two models, or one and what another has said. Out: a `Comparison`, which `certificate.json` tells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llava_pl.export.manifest import versions
from llava_pl.models.llava import LlavaModel
from llava_pl.types import IMAGE_TOKEN_INDEX, ImageGrid, InputError

CERTIFICATE_FILE = "certificate.json"
QUESTIONS = ("text", "one image", "two images")
NUM_WORDS = 24
ULPS = 64
"""Two programs add up the same numbers in another order; logits then differ by a few units in the last place. Tiny
models in float32: at most 3; a missing LoRA or another layer is thousands away."""


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
        """Whether the difference is no more than the rounding of a dtype."""
        return self.logit_difference <= ULPS * torch.finfo(dtype).eps * self.logit_scale


def questions(num_words: int, image_size: int, num_image_tokens: int) -> list[tuple[Tensor, Tensor | None]]:
    """Return ids and pictures of the fixed questions, in the order of `QUESTIONS`.

    Args:
        num_words: Ids below this one are asked for.
        image_size: Height and width of a picture, in pixels.
        num_image_tokens: P.
    """
    words = (torch.arange(NUM_WORDS) * 7 + 3) % num_words
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
def probe(model: LlavaModel, *, num_words: int | None = None) -> tuple[Tensor, ...]:
    """Return what a model answers to the fixed questions: float32 logits ``(T, V)`` for each.

    Args:
        model: On the CPU or a device.
        num_words: Ids below this one are asked for; the model's vocabulary by default.
    """
    device = next(model.parameters()).device
    image_size: Any = model.vision_encoder.model.config.image_size
    asked = questions(num_words or model.decoder.num_embeddings, image_size, model.num_image_tokens)
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
    answers: Sequence[Tensor], base_answers: Sequence[Tensor], trained: Sequence[str], what: str
) -> list[Comparison]:
    """Return how a model differs from its base, and check that it does.

    Raises:
        InputError: Training of the decoder left no trace in an answer to text, or that of another part none in an
            answer about a picture.
    """
    rows = compare(answers, base_answers)
    if not rows or not trained:
        return rows
    has_words = any(name.startswith("decoder.") for name in trained)
    row = rows[0 if has_words else 1]
    if row.logit_difference == 0.0:
        raise InputError(
            f"{what}: not certified: it answers {row.question} exactly as its base does, as if it had not been "
            "trained; nothing was kept"
        )
    return rows


def write_certificate(
    folder: Path,
    *,
    reader: Literal["llava_pl", "transformers"],
    same: Sequence[Comparison],
    base: Sequence[Comparison],
    extra: dict[str, Any],
) -> None:
    """Write what was compared.

    Args:
        folder: The certified folder.
        reader: Whose code has read the folder back.
        same: Against the live model.
        base: Against its base; empty without one.
        extra: What else there is to tell, as plain values.
    """
    content = {
        "reader": reader,
        "against_live_model": [asdict(row) for row in same],
        "against_base": [asdict(row) for row in base],
        **extra,
        "versions": versions(),
    }
    (folder / CERTIFICATE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
