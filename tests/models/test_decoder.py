"""Guards: hidden states, logits or answers differ from what transformers computes with the same language model."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llava_pl.models.decoder import CausalDecoder
from llava_pl.types import InputError

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 4}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "tied": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": True}),
}
IDS = torch.tensor([[0, 0, 5, 9, 11, 30], [1, 6, 7, 8, 12, 13]])
MASK = (IDS != 0).long()
POSITIONS = (MASK.cumsum(1) - 1).clamp(min=0)


def build(name: str):
    model_class, config_class, changes = FAMILIES[name]
    torch.manual_seed(0)
    return model_class(config_class(**SIZES, **changes)).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return build(request.param)


def test_logits_equal_transformers(model):
    decoder = CausalDecoder(model)
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK, position_ids=POSITIONS, output_hidden_states=True)
        hidden = decoder.hidden_states(decoder.embed(IDS), MASK, POSITIONS)
        logits = decoder.logits(hidden)
    assert hidden.shape == (2, 6, 32)
    # The same operations in the same order: not a bit may differ.
    assert torch.equal(hidden, expected.hidden_states[-1])
    assert torch.equal(logits, expected.logits)


def test_embeddings_and_width(model):
    decoder = CausalDecoder(model)
    assert torch.equal(decoder.embed(IDS), model.get_input_embeddings().weight[IDS])
    assert decoder.width == 32


def test_logits_of_some_rows_are_those_rows(model):
    decoder = CausalDecoder(model)
    with torch.no_grad():
        hidden = decoder.hidden_states(decoder.embed(IDS), MASK, POSITIONS)
        rows = decoder.logits(hidden[MASK.bool()])
        # 1e-6: the same products, for another number of rows; logits are of order 0.1.
        torch.testing.assert_close(rows, decoder.logits(hidden)[MASK.bool()], atol=1e-6, rtol=0)
    assert rows.shape == (10, 50)


def test_tied_head_is_the_table_of_words():
    model = build("tied")
    decoder = CausalDecoder(model)
    hidden = torch.eye(32)
    with torch.no_grad():
        assert torch.equal(decoder.logits(hidden), model.get_input_embeddings()(torch.arange(50)).T)
    assert "lm_head.weight" not in {name.removeprefix("model.") for name, _ in decoder.named_parameters()}


def test_no_cache_is_built(model):
    calls = []
    model.base_model.register_forward_hook(lambda *parts: calls.append(parts[2]), with_kwargs=False)
    decoder = CausalDecoder(model)
    decoder.hidden_states(decoder.embed(IDS), MASK, POSITIONS)
    assert [output.past_key_values for output in calls] == [None]


def test_positions_that_are_given_are_used(model):
    decoder = CausalDecoder(model)
    with torch.no_grad():
        plain = decoder.hidden_states(decoder.embed(IDS[1:]), None, torch.arange(6)[None])
        stretched = decoder.hidden_states(decoder.embed(IDS[1:]), None, 3 * torch.arange(6)[None])
    # Attention knows distances alone, so a single first token is the same, and every later one is not.
    torch.testing.assert_close(plain[:, 0], stretched[:, 0], atol=1e-6, rtol=0)
    assert (plain[:, 1:] - stretched[:, 1:]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("padding_id", [0, 7])
def test_left_padded_answers_equal_unpadded(model, padding_id):
    decoder = CausalDecoder(model)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    ids = IDS.masked_fill(MASK == 0, padding_id)
    padded = decoder.generate(decoder.embed(ids), MASK, **options)
    alone = [
        decoder.generate(decoder.embed(row[attended == 1][None]), torch.ones(1, int(attended.sum())), **options)[0]
        for row, attended in zip(IDS, MASK, strict=True)
    ]
    assert padded.tolist() == [answer.tolist() for answer in alone]
    assert padded.shape == (2, 8)


def test_an_answer_ends_at_its_end_mark(model):
    decoder = CausalDecoder(model)
    options = {"do_sample": False, "pad_token_id": 0}
    free = decoder.generate(decoder.embed(IDS), MASK, max_new_tokens=6, eos_token_id=None, **options).tolist()
    end = free[0][1]
    ended = decoder.generate(decoder.embed(IDS), MASK, max_new_tokens=6, eos_token_id=end, **options).tolist()
    for row, whole in zip(ended, free, strict=True):
        num_kept = whole.index(end) + 1 if end in whole else len(whole)
        assert row == whole[:num_kept] + [0] * (len(row) - num_kept)


@pytest.mark.parametrize(
    ("model_class", "config_class", "changes", "setting"),
    [
        (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 8}, "final_logit_softcapping"),
        (CohereForCausalLM, CohereConfig, {}, "logit_scale"),
        (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 8.0}, "logits_scaling"),
    ],
)
def test_models_that_change_their_logits_are_refused(model_class, config_class, changes, setting):
    model = model_class(config_class(**SIZES, **changes))
    message = rf"decoder: {model_class.__name__} changes its logits \({setting}\); expected a decoder of the LLaMA"
    with pytest.raises(InputError, match=message):
        CausalDecoder(model)


def test_a_scale_of_one_is_no_change():
    model = GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=1.0))
    assert CausalDecoder(model).width == 32
