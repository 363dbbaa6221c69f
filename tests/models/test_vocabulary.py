"""Guards: new tokens that start as noise, and old ones that change when the tables grow."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_pl.models.adapters import add_adapters, learned_rows
from llava_pl.models.decoder import CausalDecoder
from llava_pl.models.vocabulary import add_rows, check_vocabulary, row_tables, set_rows
from llava_pl.types import InputError


def make_decoder(*, num_rows=8, is_tied=False, dtype=torch.float32) -> CausalDecoder:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=num_rows, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=is_tied,
    )  # fmt: skip
    return CausalDecoder(LlamaForCausalLM(config).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("num_rows", [8, 9, 12])  # none to spare, one, four
def test_new_rows_are_the_mean_of_the_known_ones(num_rows, is_tied, dtype):
    decoder = make_decoder(num_rows=num_rows, is_tied=is_tied, dtype=dtype)
    before = [layer.weight.detach().clone() for layer in (decoder.embedding, decoder.head)]
    add_rows(decoder, [8, 9])
    assert decoder.num_embeddings == decoder.model.config.vocab_size == max(10, num_rows)
    assert (decoder.head.weight is decoder.embedding.weight) == is_tied
    for layer, old in zip((decoder.embedding, decoder.head), before, strict=True):
        assert torch.equal(layer.weight[:8], old[:8])
        mean = old[:8].float().mean(dim=0).to(dtype)
        assert torch.equal(layer.weight[8], mean)
        assert torch.equal(layer.weight[9], mean)
        assert torch.equal(layer.weight[10:], old[10:])  # spare rows that nobody asked for
    assert decoder.head.out_features == decoder.num_embeddings


def test_without_new_tokens_nothing_changes():
    decoder = make_decoder()
    table = decoder.embedding.weight
    add_rows(decoder, [])
    assert decoder.embedding.weight is table


@pytest.mark.parametrize("learns", [False, True])
def test_rows_are_set_wherever_they_are_held(learns):
    decoder = make_decoder(num_rows=10)
    old = decoder.embedding.weight.detach().clone()
    if learns:
        add_adapters(decoder.model, None, token_ids=[8, 9])
    rows = torch.arange(8.0).view(2, 4)
    set_rows(decoder.embedding, [8, 9], rows)
    found = decoder.embed(torch.arange(10))
    assert torch.equal(found, torch.cat([old[:8], rows]))
    assert (learned_rows(decoder.embedding) is not None) == learns


def test_a_tokenizer_that_knows_more_than_its_decoder_is_one_line(build):
    model = build(new_token_ids=[99])
    check_vocabulary(model, 100, "here")
    with pytest.raises(InputError, match=r"^model.decoder.path: here: its tokenizer knows 101 tokens, its decoder 100"):
        check_vocabulary(model, 101, "here")


def test_tables_with_rows_for_new_tokens(build):
    model = build(new_token_ids=[99])
    tables = row_tables(model)
    head, table = "decoder.model.lm_head.weight.new_rows", "decoder.model.model.embed_tokens.weight.new_rows"
    assert tables == {head: model.decoder.head, table: model.decoder.embedding}
    assert row_tables(build()) == {}


@pytest.mark.parametrize("learns", [False, True])
def test_a_tied_head_is_the_table(build, learns):
    model = build(new_token_ids=[8])
    model.decoder = make_decoder(num_rows=9, is_tied=True)
    if learns:
        add_adapters(model.decoder.model, None, token_ids=[8])
    assert row_tables(model) == {"decoder.model.model.embed_tokens.weight.new_rows": model.decoder.embedding}
