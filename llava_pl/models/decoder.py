"""Embeddings to hidden states, logits and answers: the language model.

In: ``inputs_embeds`` ``(B, T, D)``. Out: hidden states ``(B, T, D)``, and logits ``(..., V)`` of the rows asked for.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_pl.types import InputError


class Decoder(Protocol):
    """What the rest of the model asks of a language model; `CausalDecoder` is one."""

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        ...

    @property
    def num_embeddings(self) -> int:
        """V, the ids that it can read."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the word embeddings ``(B, T, D)`` of ids ``(B, T)``."""
        ...

    def hidden_states(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> Tensor:
        """Return the last hidden states ``(B, T, D)``."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(..., V)`` of hidden rows ``(..., D)``."""
        ...

    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        """Return the ids that follow left-padded prompts."""
        ...


class CausalDecoder(nn.Module):
    """A decoder of the LLaMA family, held as it comes from transformers.

    Composed, never subclassed or patched: a new release of transformers cannot break a signature that is not copied.

    Args:
        model: A causal language model whose logits are ``lm_head(last_hidden_state)``.

    Raises:
        InputError: The model scales or caps its logits, which a plain head would miss.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(model.config, name, None) not in (None, 1.0):
                raise InputError(
                    f"decoder: {type(model).__name__} changes its logits ({name}); expected a decoder of the LLaMA "
                    "family, whose logits are its head applied to the last hidden state"
                )
        self.model = model

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.embedding.embedding_dim

    @property
    def num_embeddings(self) -> int:
        """V, the ids that it can read."""
        return self.embedding.num_embeddings

    @property
    def embedding(self) -> nn.Embedding:
        """The table of word embeddings, weight ``(V, D)``."""
        return cast("nn.Embedding", self.model.get_input_embeddings())

    @property
    def head(self) -> nn.Linear:
        """The map from hidden rows to logits, weight ``(V, D)``."""
        return cast("nn.Linear", self.model.get_output_embeddings())  # type: ignore[no-untyped-call]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the word embeddings ``(B, T, D)`` of ids ``(B, T)``."""
        return cast("Tensor", self.embedding(input_ids))

    def hidden_states(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> Tensor:
        """Return the last hidden states ``(B, T, D)``.

        The cache is off: transformers would otherwise build one in training, and with it ignore restarted positions.
        """
        output = self.model.base_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        return cast("Tensor", output.last_hidden_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(..., V)`` of hidden rows ``(..., D)``."""
        return cast("Tensor", self.head(hidden))

    @torch.inference_mode()
    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        """Return the ids that follow left-padded prompts, int64 ``(B, T_new)``, padded after the end mark.

        Args:
            inputs_embeds: float ``(B, T, D)``.
            attention_mask: int64 ``(B, T)``.
            **options: As for transformers' ``generate`` (``max_new_tokens``, ``do_sample``, ``eos_token_id``, ...).
        """
        generate: Any = self.model.generate  # transformers' own type is a tensor or one of many outputs
        return cast("Tensor", generate(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **options))
