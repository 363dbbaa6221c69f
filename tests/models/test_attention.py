"""Guards: a sequence that sees its neighbour in a packed row, or a packed row that computes anything else."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from llava_pl.models import attention
from llava_pl.models.attention import PACKED_SDPA, describe_packing, packed_sdpa
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
    assert seen[0]["attention_mask"].numel() == 1
    assert seen[0]["host_ends"].diff().tolist() == LENGTHS


@pytest.mark.parametrize(
    ("name", "options"), [("llama", {"attn_implementation": "eager"}), ("mistral", {"sliding_window": 4})]
)
def test_an_attention_that_would_leak_is_refused(name, options, embeds):
    with pytest.raises(InputError, match="packed rows need attention sdpa without a sliding window"):
        build(name, **options).hidden_states(embeds, None, packed_positions(), LENGTHS)


@pytest.fixture
def varlen(monkeypatch):
    """The arguments of each call of a `varlen_attn` for the CPU, which computes what the real one is to compute."""
    calls = []

    def attend(*args, **kwargs):
        given = inspect.signature(varlen_attn).bind(*args, **kwargs).arguments
        calls.append(SimpleNamespace(**given))
        assert given["query"].stride(-1) == given["key"].stride(-1) == given["value"].stride(-1) == 1
        lengths = given["cu_seq_q"].diff().tolist()
        parts = (torch.split(given[name], lengths) for name in ("query", "key", "value"))
        return torch.cat(
            [
                scaled_dot_product_attention(
                    *(tensor.transpose(0, 1)[None] for tensor in part),
                    is_causal=True,
                    scale=given["scale"],
                    enable_gqa=given["enable_gqa"],
                )[0].transpose(0, 1)
                for part in zip(*parts, strict=True)
            ]
        )

    monkeypatch.setattr(attention, "varlen_attn", attend)
    monkeypatch.setattr(attention, "_has_varlen", lambda _: True)
    return calls


@pytest.mark.parametrize("is_autocast", [False, True])
def test_one_call_for_all_sequences_of_a_layer(embeds, varlen, is_autocast):
    decoder = build()
    if not is_autocast:
        decoder, embeds = decoder.bfloat16(), embeds.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", enabled=is_autocast):
        packed = decoder.hidden_states(embeds, None, packed_positions(), LENGTHS)
        assert len(varlen) == SIZES["num_hidden_layers"]
        alone = [decoder.hidden_states(part, None, None) for part in embeds.split(LENGTHS, dim=1)]
    # Seen equal; on another CPU matrix products of other row counts may round otherwise: outputs stay below four, where
    # bfloat16 steps by 2**-6.
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=2**-6)
    for call in varlen:
        assert call.query.shape == (13, 4, 8)
        assert call.key.shape == call.value.shape == (13, 2, 8)
        assert {call.query.dtype, call.key.dtype, call.value.dtype} == {torch.bfloat16}
        assert call.cu_seq_q is call.cu_seq_k is varlen[0].cu_seq_q  # made once for all layers
        assert call.cu_seq_q.dtype == torch.int32
        assert call.cu_seq_q.tolist() == [0, 5, 6, 13]
        assert (call.max_q, call.max_k) == (7, 7)
        assert (call.window_size, call.enable_gqa) == ((-1, 0), True)
        assert call.scale == 8**-0.5


def qkv(heads=4, key_heads=4, dim=8, dtype=torch.bfloat16, device="cpu"):
    torch.manual_seed(2)
    return [torch.randn(1, n, 13, dim, device=device).to(dtype) for n in (heads, key_heads, key_heads)]


def attend(tensors, *, is_whole=True, **options):
    """Return the attention output, of a call for the whole row or for each sequence."""
    module = SimpleNamespace(num_key_value_groups=tensors[0].shape[1] // tensors[1].shape[1], is_causal=True)
    options |= describe_packing(LENGTHS, tensors[0].device)
    options |= {} if is_whole else {"sequence_ends": None}
    return packed_sdpa(module, *tensors, None, **options)[0]


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_the_call_is_the_sequences_one_by_one(varlen, key_heads, scaling):
    tensors = qkv(key_heads=key_heads)
    assert torch.equal(attend(tensors, scaling=scaling), attend(tensors, is_whole=False, scaling=scaling))
    assert [(call.scale, call.enable_gqa) for call in varlen] == [(scaling, key_heads == 2)]


@pytest.mark.parametrize(
    ("sizes", "options"),
    [({"dtype": torch.float32}, {}), ({"dim": 12}, {}), ({"dim": 200}, {}), ({}, {"dropout": 0.5})],
    ids=["float32", "head not a multiple of 8", "head too wide", "dropout"],
)
def test_what_the_call_cannot_do_is_left_to_ordinary_attention(varlen, sizes, options):
    tensors = qkv(**sizes)
    torch.manual_seed(3)
    whole = attend(tensors, **options)
    torch.manual_seed(3)
    assert torch.equal(whole, attend(tensors, is_whole=False, **options))
    assert varlen == []


def test_a_cpu_has_no_such_call():
    assert not attention._has_varlen(torch.device("cpu"))
    assert torch.isfinite(attend(qkv())).all()


@pytest.mark.gpu
@pytest.mark.parametrize("key_heads", [4, 2])
def test_on_a_gpu_the_call_is_as_good_as_the_sequences_one_by_one(key_heads):
    exact = [tensor.requires_grad_() for tensor in qkv(key_heads=key_heads, dim=64, dtype=torch.float32, device="cuda")]
    found = {}
    for name, dtype in (("exact", torch.float32), ("one by one", torch.bfloat16), ("whole", torch.bfloat16)):
        output = attend([tensor.to(dtype) for tensor in exact], is_whole=name == "whole")
        found[name] = [output.float(), *torch.autograd.grad(output.float().square().sum(), exact)]
    for values in zip(*found.values(), strict=True):
        reference, one_by_one, whole = values
        # Both round to bfloat16, in another order; a sequence that sees its neighbour is off by the size of the values.
        assert (whole - reference).abs().max() <= 2 * (one_by_one - reference).abs().max()
