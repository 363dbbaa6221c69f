"""Embeddings to hidden states, logits and answers: the language model.

In: ``inputs_embeds`` ``(B, T, D)``. Out: hidden states ``(B, T, D)``, and logits ``(..., V)`` of the rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from llava_pl.models.adapters import plain_name, plain_table
from llava_pl.models.attention import PACKED_SDPA, describe_packing, sequence_ends
from llava_pl.models.division import is_divided
from llava_pl.models.roomy_cache import make_cache
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

    @property
    def embedding(self) -> nn.Module:
        """The table of word embeddings."""
        ...

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the word embeddings ``(B, T, D)`` of ids ``(B, T)``."""
        ...

    def hidden_states(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        sequence_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the last hidden states ``(B, T, D)``."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(..., V)`` of hidden rows ``(..., D)``."""
        ...

    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        """Return the ids that follow left-padded prompts."""
        ...

    def check_length(self, num_positions: int, advice: str) -> None:
        """Check that a row is not longer than the model takes."""
        ...

    @property
    def can_share(self) -> bool:
        """Whether what rows have in common may be read once for all of them."""
        ...

    @property
    def can_pack_prompts(self) -> bool:
        """Whether `extend` can read prompts in one row."""
        ...

    @property
    def is_divided(self) -> bool:
        """Whether ranks must run it equally often."""
        ...

    def new_cache(self, *, keeps_all: bool = False) -> Cache:
        """Return an empty cache for `extend`: of `RoomyLayer` where prompts are packed or all is kept."""
        ...

    def extend(
        self,
        cache: Cache,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        sequence_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the last hidden states ``(B, Q, D)`` of positions that follow those of a cache."""
        ...


class CausalDecoder(nn.Module):
    """A decoder as it comes from transformers: LLaMA, Mistral, Qwen2 and 3, SmolLM2, MPT and what is built like them.

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
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(PACKED_SDPA)

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return plain_table(self.embedding).embedding_dim

    @property
    def num_embeddings(self) -> int:
        """V, the ids that it can read."""
        return plain_table(self.embedding).num_embeddings

    @property
    def embedding(self) -> nn.Embedding:
        """The table of word embeddings, weight ``(V, D)``; peft's layer around it while new rows learn alone."""
        return cast("nn.Embedding", self.model.get_input_embeddings())

    @property
    def embedding_name(self) -> str:
        """Name of the table of word embeddings in the model as it was without adapters."""
        table = plain_table(self.embedding).weight
        return plain_name(next(name for name, parameter in self.model.named_parameters() if parameter is table))

    @property
    def head(self) -> nn.Linear:
        """The map from hidden rows to logits, weight ``(V, D)``."""
        return cast("nn.Linear", self.model.get_output_embeddings())  # type: ignore[no-untyped-call]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the word embeddings ``(B, T, D)`` of ids ``(B, T)``."""
        return cast("Tensor", self.embedding(input_ids))

    def hidden_states(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        sequence_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the last hidden states ``(B, T, D)``.

        The cache is off: transformers would otherwise build one in training, and with it ignore restarted positions.

        Args:
            inputs_embeds: float ``(B, T, D)``.
            attention_mask: int64 ``(B, T)``, zero at padding; None without any.
            position_ids: int64 ``(B, T)``, restarting with each sequence of a packed row; None to count from zero.
            sequence_lengths: Positions of each sequence of a packed row (B = 1, no mask); None when not packed.

        Raises:
            InputError: A packed row, and an attention that would let its sequences see each other; or a row that is
                longer than the model's table of positions (MPT).
        """
        self.check_length(inputs_embeds.shape[1], "lower data.max_length")
        options: dict[str, Any] = {"attention_mask": attention_mask}
        if sequence_lengths is not None:
            options |= self._packing_options(sequence_lengths, inputs_embeds.device)
        output = self.model.base_model(
            inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False, **options
        )
        return cast("Tensor", output.last_hidden_state)

    def check_length(self, num_positions: int, advice: str) -> None:
        """Check that a row is not longer than a table of positions (MPT); other families go beyond what they learned.

        Raises:
            InputError: It is; holds the advice.
        """
        longest = getattr(self.model.config, "max_seq_len", None)
        if longest is not None and num_positions > longest:
            raise InputError(
                f"decoder: {type(self.model).__name__} takes at most {longest} positions, "
                f"found {num_positions}; {advice}"
            )

    def check_packing(self) -> None:
        """Check that sequences of a packed row would not see each other.

        Raises:
            InputError: They would, with this attention or this family.
        """
        attention = self.model.config._attn_implementation
        if attention is None or not (self._packs_sdpa or attention.startswith("flash_")):
            raise InputError(
                "decoder: packed rows need attention sdpa without a sliding window, or flash_attention_2; "
                f"found {attention} in {type(self.model).__name__}; switch packing off"
            )

    @property
    def _packs_sdpa(self) -> bool:
        is_windowed = getattr(self.model.config, "sliding_window", None) is not None
        return self.model.config._attn_implementation == PACKED_SDPA and not is_windowed

    def _packing_options(self, lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
        """Return what tells the model's attention where sequences end."""
        self.check_packing()
        if self.model.config._attn_implementation == PACKED_SDPA:
            # A mask of four dimensions is handed through, here to be left alone. Without one, transformers reads off
            # the positions whether a row is packed, for which the host waits for the device.
            return {"attention_mask": torch.zeros(1, 1, 1, 1, device=device), **describe_packing(lengths, device)}
        ends = sequence_ends(lengths, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        longest = max(lengths)
        # All four, or transformers looks for the ends itself and stalls the device in every layer.
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``(..., V)`` of hidden rows ``(..., D)``."""
        return cast("Tensor", self.head(hidden))

    @torch.no_grad()  # not inference_mode: weights that are gathered within stay unusable for training
    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        """Return the ids that follow left-padded prompts, int64 ``(B, T_new)``, padded after the end mark.

        Args:
            inputs_embeds: float ``(B, T, D)``.
            attention_mask: int64 ``(B, T)``.
            **options: As for transformers' ``generate`` (``max_new_tokens``, ``do_sample``, ``eos_token_id``, ...).
        """
        generate: Any = self.model.generate  # transformers' own type is a tensor or one of many outputs
        # Ranks that gather each layer together take equally many steps, whoever has the longest answer.
        options["synced_gpus"] = self.is_divided
        return cast("Tensor", generate(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **options))

    @property
    def is_divided(self) -> bool:
        """Whether its weights lie in pieces, so that ranks must run it equally often."""
        return is_divided(self.model)

    @property
    def can_share(self) -> bool:
        """Whether what rows have in common may be read once for all of them.

        It may where a position is known by its keys and values alone, and no rank must run as often as another.
        """
        return not self.is_divided and self._has_plain_cache(DynamicLayer, DynamicSlidingWindowLayer)

    @property
    def can_pack_prompts(self) -> bool:
        """Whether `extend` can read prompts in one row, as training does: nothing is spent on padding and its mask."""
        return self._packs_sdpa and self._has_plain_cache(DynamicLayer)

    def _has_plain_cache(self, *layer_classes: type) -> bool:
        return all(type(layer) in layer_classes for layer in DynamicCache(config=self.model.config).layers)

    def new_cache(self, *, keeps_all: bool = False) -> Cache:
        """Return an empty cache for `extend`.

        Args:
            keeps_all: Keep positions behind a window too: rows that share a prefix look back to different places.
        """
        return make_cache(self.model.config, keeps_all=keeps_all)

    @torch.no_grad()  # not inference_mode, as in `generate`
    def extend(
        self,
        cache: Cache,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        sequence_lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the last hidden states ``(B, Q, D)`` of positions that follow those of a cache, and add them to it.

        Args:
            cache: Of `new_cache`.
            inputs_embeds: float ``(B, Q, D)`` of the new positions.
            attention_mask: int64 ``(B, T + Q)``, zero at padding, over the T positions of the cache and the new ones;
                None for a packed row.
            sequence_lengths: Positions of each prompt in a packed row (B = 1, an empty cache); None when not packed.
        """
        options: dict[str, Any] = {"attention_mask": attention_mask}
        if sequence_lengths is not None:
            options |= self._packing_options(sequence_lengths, inputs_embeds.device)
            positions = torch.cat([torch.arange(length) for length in sequence_lengths])[None].to(inputs_embeds.device)
        else:
            assert attention_mask is not None
            advice = "shorten the question, or lower model.generation.max_new_tokens"
            self.check_length(attention_mask.shape[1], advice)
            positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        output = self.model.base_model(
            inputs_embeds=inputs_embeds, position_ids=positions, past_key_values=cache, use_cache=True, **options
        )
        return cast("Tensor", output.last_hidden_state)
