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
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llava_pl.export.parts import load_decoder
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.loss import supervised_loss
from llava_pl.models.recompute import recompute_layers
from llava_pl.types import IGNORE_INDEX, InputError

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
MPT_SIZES = {
    "vocab_size": 50, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 16, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# What a family has that LLaMA-2 has not: the frequencies of LLaMA-3.1, a window, biases, a tied head, ...
LLAMA_3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8, "rope_theta": 500000.0,
}  # fmt: skip
FAMILIES = {
    "llama_2": (LlamaForCausalLM, LlamaConfig, SIZES | {"num_key_value_heads": 4}),
    "llama_3": (LlamaForCausalLM, LlamaConfig, SIZES | {"rope_parameters": LLAMA_3}),
    "mistral": (MistralForCausalLM, MistralConfig, SIZES | {"sliding_window": None}),
    "mistral_window": (MistralForCausalLM, MistralConfig, SIZES | {"sliding_window": 4}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, SIZES | {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, SIZES | {"head_dim": 16}),
    "smollm2": (LlamaForCausalLM, LlamaConfig, SIZES | {"tie_word_embeddings": True, "rope_theta": 1e5}),
    "mpt": (MptForCausalLM, MptConfig, MPT_SIZES),
}
TIED = ("qwen2", "smollm2", "mpt")
REFUSES_PACKING = {
    "mistral_window": "found llava_pl_packed_sdpa in MistralForCausalLM",
    "mpt": "found eager in MptForCausalLM",
}
IDS = torch.tensor([[0, 0, 5, 9, 11, 30], [1, 6, 7, 8, 12, 13]])
MASK = (IDS != 0).long()
POSITIONS = (MASK.cumsum(1) - 1).clamp(min=0)


def build(name: str):
    model_class, config_class, settings = FAMILIES[name]
    torch.manual_seed(0)
    return model_class(config_class(**settings)).eval()


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


@pytest.mark.parametrize("name", TIED)
def test_tied_head_is_the_table_of_words(name):
    model = build(name)
    decoder = CausalDecoder(model)
    hidden = torch.eye(32)
    with torch.no_grad():
        assert torch.equal(decoder.logits(hidden), model.get_input_embeddings()(torch.arange(50)).T)
    # One parameter, which is trained, counted and saved once.
    assert "lm_head.weight" not in {name.removeprefix("model.") for name, _ in decoder.named_parameters()}


def hidden_of(decoder, ids, mask=None):
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    return decoder.hidden_states(decoder.embed(ids), mask, positions)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side):
    decoder = CausalDecoder(model)
    row, padding = IDS[:1, 2:], torch.zeros(1, 3, dtype=torch.int64)
    parts, place = ([padding, row], slice(3, None)) if side == "left" else ([row, padding], slice(4))
    ids = torch.cat(parts, dim=1)
    with torch.no_grad():
        padded = hidden_of(decoder, ids, (ids != 0).long())[:, place]
        # 1e-5: hidden states are of order 1, the largest difference seen was 1e-6; a token that sees padding, or is
        # one position off, is another by 1e-2.
        torch.testing.assert_close(padded, hidden_of(decoder, row), atol=1e-5, rtol=0)


def test_loss_is_that_of_transformers(model):
    decoder = CausalDecoder(model)
    labels = torch.tensor([[IGNORE_INDEX] * 4 + [11, 30], [IGNORE_INDEX, IGNORE_INDEX, 7, 8, 12, 13]])
    with torch.no_grad():
        loss = supervised_loss(decoder.hidden_states(decoder.embed(IDS), MASK, POSITIONS), labels, decoder.logits).mean
        expected = model(input_ids=IDS, attention_mask=MASK, position_ids=POSITIONS, labels=labels).loss
    # 1e-6: the head runs on six rows instead of twelve; the loss is about 4.
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)


def packed_hidden(decoder):
    """Return the hidden states of rows of 4 and 6 tokens in one."""
    ids, positions = torch.cat([IDS[0, 2:], IDS[1]])[None], torch.tensor([[*range(4), *range(6)]])
    return decoder.hidden_states(decoder.embed(ids), None, positions, [4, 6])


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - REFUSES_PACKING.keys()))
def test_packed_rows_are_their_sequences(name):
    decoder = CausalDecoder(build(name))
    with torch.no_grad():
        expected = torch.cat([hidden_of(decoder, IDS[:1, 2:]), hidden_of(decoder, IDS[1:])], dim=1)
        # As for padding.
        torch.testing.assert_close(packed_hidden(decoder), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "found"), REFUSES_PACKING.items())
def test_families_that_cannot_pack_say_so(name, found):
    with pytest.raises(InputError, match=f"packed rows need attention sdpa .*{found}; switch packing off"):
        packed_hidden(CausalDecoder(build(name)))


@pytest.mark.parametrize("kind", ["none", "full"])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_embeddings_and_every_weight(name, kind):
    decoder = CausalDecoder(build(name).train())
    recompute_layers(decoder.model, kind)
    embeds = decoder.embed(IDS).detach().requires_grad_()
    loss = decoder.logits(decoder.hidden_states(embeds, MASK, POSITIONS)).logsumexp(-1).sum()
    loss.backward()
    assert embeds.grad[MASK.bool()].abs().amax(-1).min() > 0
    table = set() if name in TIED else {"model.model.embed_tokens.weight"}
    assert {name for name, p in decoder.named_parameters() if p.grad is None} == table


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_gives_the_same_model(name, tmp_path):
    model = build(name)
    model.save_pretrained(tmp_path)
    loaded = load_decoder(tmp_path, attn_implementation="eager" if name == "mpt" else "sdpa").eval()
    with torch.no_grad():
        assert torch.equal(hidden_of(loaded, IDS, MASK), hidden_of(CausalDecoder(model), IDS, MASK))


def test_an_attention_that_a_family_lacks_is_refused(tmp_path):
    build("mpt").save_pretrained(tmp_path)
    for attention in ("sdpa", "flash_attention_2"):
        message = f"model.decoder.attention: MptForCausalLM has no {attention}; expected eager"
        with pytest.raises(InputError, match=message):
            load_decoder(tmp_path, attn_implementation=attention)


def test_rows_longer_than_a_table_of_positions_are_refused():
    decoder = CausalDecoder(build("mpt"))
    with pytest.raises(InputError, match="MptForCausalLM takes at most 16 positions, found 17; lower data"):
        hidden_of(decoder, torch.ones(1, 17, dtype=torch.int64))


def test_no_cache_is_built(model):
    calls = []
    model.base_model.register_forward_hook(lambda *parts: calls.append(parts[2]), with_kwargs=False)
    decoder = CausalDecoder(model)
    decoder.hidden_states(decoder.embed(IDS), MASK, POSITIONS)
    assert [output.past_key_values for output in calls] == [None]


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"mpt"}))  # which knows distances alone, by construction
def test_positions_that_are_given_are_used(name):
    decoder = CausalDecoder(build(name))
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
