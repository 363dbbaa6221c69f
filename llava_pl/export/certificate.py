"""Whether two forms of a model give the same answers: asked, not assumed.

In: two models, or one and what another has said. Out: a `Comparison` for each question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_pl.models.llava import LlavaModel
from llava_pl.progress import show_progress
from llava_pl.types import IMAGE_TOKEN_INDEX, ImageGrid, InputError

QUESTIONS = ("text", "one image", "two images", "each word")
TEXT, ONE_IMAGE, _, EACH_WORD = range(len(QUESTIONS))
NUM_WORDS, NUM_DIRECTIONS, ROWS_AT_ONCE = 24, 8, 8192
TABLES = (".embed_tokens.weight", ".wte.weight")
"""How the name of the word embeddings ends; what learned in them shows in no text without the words that learned."""
TOLERANCES = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The most that logits may differ, as a share of the largest, by the coarsest dtype of a model's weights. Forms of the
same weights differ by nothing at all; a merged LoRA adds the same numbers in another order (about 1e-6 in float32),
and weights that are rounded on their way move logits by a few units of their dtype. A layer that is lost is far
away."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the answers of two models differ.

    Args:
        question: What was asked, one of `QUESTIONS`.
        logit_difference: The largest, over all positions and words. Of "each word" the answers are no logits, but the
            word embeddings along a few directions.
        logit_scale: The largest logit, by which a difference is judged.
        token_agreement: Share of the positions at which both would say the same word.
    """

    question: str
    logit_difference: float
    logit_scale: float
    token_agreement: float

    def is_within(self, dtype: torch.dtype) -> bool:
        """Whether the difference is no more than what rounding to a dtype explains; never if there is a NaN."""
        tolerance = TOLERANCES[dtype]
        if self.answer == "embeddings":
            # No layer adds to the rounding: of random tables it was a quarter of eps at most. A row in the place of
            # another was a tenth of the scale or more.
            tolerance = max(torch.finfo(dtype).eps, TOLERANCES[torch.float32])
        return self.logit_difference <= tolerance * self.logit_scale

    def __str__(self) -> str:
        """Return it as a line of a report."""
        unit = "words" if self.answer == "logits" else "largest parts"
        return (
            f"{self.question:10}  {self.answer} differ by at most {self.logit_difference:.3g} of "
            f"{self.logit_scale:.3g}, {self.token_agreement:.1%} of the {unit} agree"
        )

    @property
    def answer(self) -> str:
        """What was compared: "logits", or "embeddings" of each word."""
        return "logits" if self.question != QUESTIONS[EACH_WORD] else "embeddings"


def questions(num_words: int, image_size: int, num_image_tokens: int) -> list[tuple[Tensor, Tensor | None]]:
    """Return ids and pictures of the fixed questions, in the order of `QUESTIONS` but for the last.

    Args:
        num_words: Ids are taken from all below this one, the first and the last among them.
        image_size: Height and width of a picture, in pixels.
        num_image_tokens: P.
    """
    words = torch.arange(NUM_WORDS) * (num_words - 1) // (NUM_WORDS - 1)
    picture = [IMAGE_TOKEN_INDEX] * num_image_tokens
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, image_size, image_size, generator=generator)
    head, middle, tail = words[::3].tolist(), words[1::3].tolist(), words[2::3].tolist()
    return [
        (words[None], None),
        (torch.tensor([[*head, *picture, *tail]]), pictures[:1]),
        (torch.tensor([[*head, *picture, *middle, *picture, *tail]]), pictures),
    ]


@torch.inference_mode()
def probe(model: LlavaModel, num_words: int | None = None) -> tuple[Tensor, ...]:
    """Return what a model, on whatever device, answers to the fixed questions: float32 logits ``(T, V)``.

    The last answer is `look_up`'s.

    Args:
        model: Asked in eval mode.
        num_words: Ids below this one are asked for, as of another model that knows fewer; all when None.
    """
    device = next(model.parameters()).device
    image_size: Any = model.vision_encoder.model.config.image_size
    num_words = num_words or model.decoder.num_embeddings
    asked = questions(num_words, image_size, model.num_image_tokens)
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    answers = []
    for ids, pictures in show_progress(asked, "asking the model"):
        if model.image_newline is not None and pictures is not None:
            answers.append(_ask_tiled(model, ids, pictures))
            continue
        output = model(ids.to(device), None if pictures is None else pictures.to(device))
        answers.append(output.logits[0].float().cpu())
    answers.append(look_up(model.decoder.embed, num_words, device))
    for module in was_training:
        module.training = True
    return tuple(answers)


@torch.inference_mode()
def look_up(embed: Callable[[Tensor], Tensor], num_words: int, device: torch.device) -> Tensor:
    """Return the embeddings of the first words along a few fixed directions, float32 ``(num_words, NUM_DIRECTIONS)``.

    A text holds some of the words alone; here a wrong row shows wherever it is.

    Args:
        embed: Ids ``(B, T)`` to embeddings ``(B, T, D)``.
        num_words: Ids below this one are looked up.
        device: Where the ids go.
    """
    found: list[Tensor] = []
    for first in range(0, num_words, ROWS_AT_ONCE):
        ids = torch.arange(first, min(first + ROWS_AT_ONCE, num_words), device=device)
        rows = embed(ids[None])[0].float().cpu()
        directions = torch.randn(rows.shape[-1], NUM_DIRECTIONS, generator=torch.Generator().manual_seed(0))
        found.append(rows @ directions)
    return torch.cat(found)


def compare(found: Sequence[Tensor], expected: Sequence[Tensor]) -> list[Comparison]:
    """Return how the answers of two models to the same questions differ.

    Both must have been asked for the same words. Where one has logits for more words than the other, as an exported
    model that got a word for pictures, those of the words that both know are compared.

    Raises:
        InputError: The models do not take the same questions.
    """
    if (num_words := len(found[-1])) != len(expected[-1]):
        raise InputError(
            f"certificate: the models do not compare: one was asked for {num_words} words, the other for "
            f"{len(expected[-1])}"
        )
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
                f"{what}: not certified: on {row.question} the {row.answer} differ by {row.logit_difference:.3g} of "
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
    rows, near, asked = compare(found, base), compare(found, live), _heard_in(trained)
    for place in asked:
        to_base, to_live = rows[place].logit_difference, near[place].logit_difference
        if place == EACH_WORD:  # of all words those that learned, whatever rounding does to the others
            moved = (live[place] != base[place]).any(-1, keepdim=True)
            if len(asked) > 1 and not moved.any():
                continue  # rows of new tokens are carried also where they did not learn
            to_base, to_live = (float((moved * (found[place] - other[place])).abs().max()) for other in (base, live))
        if to_base <= 2 * to_live:
            raise InputError(
                f"{what}: not certified: on {QUESTIONS[place]} the answers differ from those of the base by "
                f"{to_base:.3g} alone, as if it had not been trained; nothing was kept"
            )
    return rows


def coarsest_dtype(model: LlavaModel) -> torch.dtype:
    """Return the dtype of a model's weights that rounds most."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.dtype in TOLERANCES}
    return max(dtypes, key=lambda dtype: TOLERANCES[dtype], default=torch.float32)


def _heard_in(trained: Sequence[str]) -> list[int]:
    """Return the questions that cannot be answered as before once these tensors have learned."""
    tables = [name for name in trained if name.endswith(TABLES)]
    rest = [name for name in trained if not name.endswith(TABLES)]
    if any(name.startswith("decoder.") for name in rest):
        return [TEXT]
    # The projector is silent without a picture.
    return [ONE_IMAGE] * bool(rest) + [EACH_WORD] * bool(tables)


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
