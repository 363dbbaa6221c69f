"""Prompts to answers: batched greedy generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_pl.models.llava import LlavaModel
from llava_pl.types import Batch, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated; greedily, so that they can be compared.

    Args:
        max_new_tokens: Answers are cut after that many tokens.
    """

    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        """Refuse a length that leaves no room for an answer."""
        if self.max_new_tokens < 1:
            raise InputError(f"model.generation.max_new_tokens: expected at least 1, found {self.max_new_tokens}")


def generate_answers(
    model: LlavaModel, batch: Batch, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, *, stop: str = "</s>"
) -> list[str]:
    """Return what the model says to each prompt of a left-padded batch.

    Args:
        model: In eval mode.
        batch: Prompts, padded on the left.
        tokenizer: To read the answers.
        config: Length of the answers.
        stop: Text that ends an answer; it is cut off.
    """
    options: dict[str, Any] = {}
    if stop != tokenizer.eos_token:
        options = {"stop_strings": [stop], "tokenizer": tokenizer}
    new_ids = model.generate(
        batch["input_ids"],
        batch["pixel_values"],
        batch["attention_mask"],
        batch.get("grids", ()),
        max_new_tokens=config.max_new_tokens,
        # Greedy whatever the decoder's own generation_config asks for; only so can answers be compared.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    return [text.split(stop)[0].strip() if stop else text.strip() for text in texts]
