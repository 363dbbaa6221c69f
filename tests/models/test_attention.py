"""Guards: a sequence that sees its neighbour in a packed row, or a packed row that computes anything else."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from llava_pl.models.attention import PACKED_SDPA
from llava_pl.models.decoder import CausalDecoder
from llava_pl.types import InputError

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
LENGTHS = [5, 1, 7]
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
}


def build(name="llama", **options):
    model_class, config_class, changes = FAMILIES[name]
    torch.manual_seed(0)
    return CausalDecoder(model_class._from_config(config_class(**SIZES, **(changes | options))).eval())


def packed_positions():
    return torch.cat([torch.arange(length) for length in LENGTHS])[None]


@pytest.fixture
def embeds():
    torch.manual_seed(1)
    return torch.randn(1, sum(LENGTHS), 32)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_row_is_its_sequences_one_by_one(name, embeds):
    decoder = build(name)
    assert decoder.model.config._attn_implementation == PACKED_SDPA
    with torch.no_grad():
        packed = decoder.hidden_states(embeds, None, packed_positions(), LENGTHS)
        alone = [decoder.hidden_states(part, None, None) for part in embeds.split(LENGTHS, dim=1)]
    # The same kernels on other row counts: float32 rounding of matrix products, seen up to 3e-7.
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=2e-6)


def test_another_sequence_changes_not_a_bit(embeds):
    decoder = build()
    other = embeds.clone()
    other[:, :5] += 1.0
    with torch.no_grad():
        first, second = (decoder.hidden_states(row, None, packed_positions(), LENGTHS) for row in (embeds, other))
    assert torch.equal(first[:, 5:], second[:, 5:])
    assert not torch.equal(first[:, :5], second[:, :5])


def test_gradients_are_those_of_the_sequences(embeds):
    decoder = build()
    weight = decoder.model.model.layers[0].self_attn.q_proj.weight
    grads = []
    for run in ("packed", "alone"):
        weight.grad = None
        if run == "packed":
            decoder.hidden_states(embeds, None, packed_positions(), LENGTHS).pow(2).sum().backward()
        else:
            for part in embeds.split(LENGTHS, dim=1):
                decoder.hidden_states(part, None, None).pow(2).sum().backward()
        grads.append(weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)


def test_no_mask_over_the_row_is_made(embeds, monkeypatch):
    decoder = build()
    seen = []
    layer = decoder.model.model.layers[0]
    layer.self_attn.register_forward_pre_hook(lambda _, args, options: seen.append(options), with_kwargs=True)
    with torch.no_grad():
        decoder.hidden_states(embeds, None, packed_positions(), LENGTHS)
    assert seen[0]["attention_mask"] is None
    assert seen[0]["sequence_lengths"] == LENGTHS


@pytest.mark.parametrize(
    ("name", "options"), [("llama", {"attn_implementation": "eager"}), ("mistral", {"sliding_window": 4})]
)
def test_an_attention_that_would_leak_is_refused(name, options, embeds):
    with pytest.raises(InputError, match="packed rows need attention sdpa without a sliding window"):
        build(name, **options).hidden_states(embeds, None, packed_positions(), LENGTHS)
