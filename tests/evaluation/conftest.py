"""Two sets of answers to the same ten questions, and a model whose answers are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llava_pl.evaluation.report import Answered
from llava_pl.evaluation.scienceqa import score_questions
from llava_pl.types import Question

if TYPE_CHECKING:
    from llava_pl.models.llava import LlavaModel

QUESTIONS = [
    Question(str(n), f"<image>\nQ{n} <b>", ("a", "b"), 0, f"{n}.png", ("NAT", "topic:birds")) for n in range(10)
]


def answered(label: str, texts: list[str | None], **header) -> Answered:
    rows = [None if text is None else {"question_id": "", "text": text} for text in texts]
    asked = list(zip(QUESTIONS, rows, strict=True))
    return Answered(label, asked, score_questions(asked, "strict"), {"answers": header})


@pytest.fixture
def first() -> Answered:
    """Eight right answers, a wrong one, and one that cannot be read."""
    return answered("first.jsonl", ["A"] * 8 + ["B", "hm|<i>"], template="v1")


@pytest.fixture
def second() -> Answered:
    """Five right answers, four wrong ones, and one question without an answer."""
    return answered("second.jsonl", ["A"] * 5 + ["B"] * 4 + [None], template="plain")


@pytest.fixture(scope="module")
def tokenizer(tiny_parts):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_parts / "decoder")


@pytest.fixture(scope="module")
def alphabet(tiny_parts) -> LlavaModel:
    """A model that says the next character of the alphabet, and the end mark after z.

    Its layers add nothing, and the head's row of a token is the embedding of the one before it.
    """
    import torch

    from llava_pl.export.parts import load_decoder, load_vision_encoder
    from llava_pl.models.llava import LlavaModel
    from llava_pl.models.projector import build_projector

    torch.manual_seed(0)
    encoder, decoder = load_vision_encoder(tiny_parts / "encoder"), load_decoder(tiny_parts / "decoder")
    network = decoder.model
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        words = torch.nn.functional.normalize(torch.randn(99, 32), dim=-1)
        network.model.embed_tokens.weight.copy_(words)
        after = [*range(1, 99), 3]
        after[1], after[2], after[ord("z") - 29] = after[ord("z") - 29], 0, 2
        assert len(set(after)) == 99  # of two rows written to one place either may win
        network.lm_head.weight[after] = words
    projector = build_projector("linear", vision_width=16, decoder_width=32)
    return LlavaModel(encoder, projector, decoder).eval()
